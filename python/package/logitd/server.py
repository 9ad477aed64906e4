"""A server of one's own: `logitd serve`, started and stopped around a block."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import types

__all__ = ["Server"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class Server:
    """`with Server() as server:` runs `logitd serve` until the end of the block, which drains it.

    `target` is its Unix socket, with memory to share (`logitd.Client(server.target)` takes the fastest way), and
    `address` its TCP socket on loopback. `flags` are further ones of `logitd serve`. The binary is `binary`, or what the
    variable LOGITD names, or that of the package logitd-server, or the `logitd` of the PATH.
    """

    target: str
    address: str

    def __init__(self, device: str = "cpu", *flags: str, binary: str | os.PathLike[str] | None = None):
        self._binary = found(binary)
        self._flags = (f"--device={device}", *flags)

    def __enter__(self) -> Server:
        self._folder = tempfile.TemporaryDirectory(prefix="logitd-")
        try:
            self._start(pathlib.Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        said = self.log()
        self._folder.cleanup()
        if code != 0 and kind is None:
            raise RuntimeError(f"logitd ended with {code}:\n{said}")

    def log(self) -> str:
        """What it has said: a JSON object a line."""
        return self._log.read_text(errors="replace")

    def _start(self, folder: pathlib.Path) -> None:
        self._log = folder / "log"
        self.target = f"unix:{folder}/logitd.sock"
        # The server says when it is ready, as systemd wants to hear it.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self._log.open("w") as log:
            ready.bind(str(folder / "ready"))
            ready.settimeout(0.1)
            self._process = subprocess.Popen(
                [self._binary, "serve", "--log-format=json", f"--listen={self.target}", "--listen=127.0.0.1:0",
                 f"--shm=unix:{folder}/shm.sock", *self._flags],
                env=environment() | {"NOTIFY_SOCKET": str(folder / "ready")},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                self._wait(ready)
            except BaseException:
                self._process.kill()
                self._process.wait()
                raise

    def _wait(self, ready: socket.socket) -> None:
        """Until the server is ready and has said where it listens, which it may write later."""
        is_ready = False
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                is_ready |= b"READY=1" in ready.recv(4096)
            except TimeoutError:
                pass
            address = self._tcp_address()
            if is_ready and address is not None:
                self.address = address
                return
        raise RuntimeError(f"logitd did not start:\n{self.log()}")

    def _tcp_address(self) -> str | None:
        lines = self.log().split("\n")[:-1]
        events = [json.loads(line) for line in lines if line.startswith("{")]
        heard = [event["address"] for event in events if event.get("message") == "listening"]
        return next((str(address) for address in heard if not address.startswith("unix:")), None)


def found(binary: str | os.PathLike[str] | None) -> str:
    """The binary that is asked for, or LOGITD's, or that of the package logitd-server, or that of the PATH."""
    path = binary or os.environ.get("LOGITD") or installed() or shutil.which("logitd")
    if path is None:
        raise FileNotFoundError(
            "there is no logitd on the PATH, and neither Server(binary=..) nor the variable LOGITD names one; "
            "the wheel logitd-server brings it"
        )
    return os.fspath(path)


def environment() -> dict[str, str]:
    """The variables of this process, but for those that change what the binary does and says: it is read here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOGITD") and name != "RUST_LOG"}


def installed() -> pathlib.Path | None:
    """The binary of logitd-server, which is on no PATH where its environment is not activated."""
    try:
        files = importlib.metadata.files("logitd-server") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((pathlib.Path(file.locate()) for file in files if file.name == "logitd"), None)
