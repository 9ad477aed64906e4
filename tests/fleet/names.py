"""A name server on loopback: whatever is asked, it answers with the addresses of the fleet."""

import socket
import struct
import threading

TYPE_A, CLASS_IN = 1, 1
TTL_S = 1


class Names:
    """`with Names() as names:`; `names.addresses` is what the next question is answered with."""

    def __init__(self):
        self.addresses: list[str] = []

    def __enter__(self) -> "Names":
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _serve(self):
        while True:
            try:
                question, sender = self.socket.recvfrom(512)
            except OSError:
                return
            self.socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        """RFC 1035: the header, the question as it was asked, and a record an address."""
        end = 12
        while question[end]:
            end += 1 + question[end]
        kind, = struct.unpack_from("!H", question, end + 1)
        addresses = list(self.addresses) if kind == TYPE_A else []
        header = question[:2] + struct.pack("!HHHHH", 0x8580, 1, len(addresses), 0, 0)
        records = b"".join(
            struct.pack("!HHHIH", 0xC00C, TYPE_A, CLASS_IN, TTL_S, 4) + socket.inet_aton(address)
            for address in addresses)
        return header + question[12:end + 5] + records
