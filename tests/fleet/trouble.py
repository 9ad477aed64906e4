"""Clients that no library would be: they speak HTTP/2 by hand, and then do nothing."""

import socket
import ssl
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
SETTINGS_INITIAL_WINDOW_SIZE = 4


class Connection:
    """An HTTP/2 connection whose streams have no window: what is answered on them cannot be sent."""

    def __init__(self, host: str, ca: str):
        address, port = host.rsplit(":", 1)
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection((address, int(port))))
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, struct.pack("!HI", SETTINGS_INITIAL_WINDOW_SIZE, 0)))

    def begin(self, stream: int, *more: tuple[str, str], method: str = "Sample"):
        """A call, with more headers perhaps, without its message."""
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "logitd"),
                  (":path", f"/logitd.v1.SamplerService/{method}"), ("te", "trailers"), ("content-type", "application/grpc")]
        headers = b"".join(literal(*field) for field in [*fields, *more])
        self.socket.sendall(frame(HEADERS, END_HEADERS, stream, headers))

    def call(self, stream: int, message: bytes, method: str = "Sample"):
        """A call whose answer is not read."""
        self.begin(stream, method=method)
        self.socket.sendall(frame(DATA, END_STREAM, stream, b"\0" + struct.pack("!I", len(message)) + message))

    def close(self):
        self.socket.close()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, section 4.1."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """RFC 7541, section 6.2.2: a field that no table knows; names and values are short."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
