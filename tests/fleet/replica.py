"""One `logitd serve` of a fleet, on an address of its own."""

import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request

from deployed import DEPLOY

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
METRICS_PORT_OFFSET = 1


def free_port() -> int:
    """A port that is free on every loopback address that replicas use, and so is the next."""
    for port in range(20_000 + os.getpid() % 10_000, 60_000, 7):
        if all(_is_free(f"127.0.0.{last}", port + offset) for last in range(11, 20) for offset in (0, METRICS_PORT_OFFSET)):
            return port
    raise RuntimeError("no free port")


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


class Replica:
    """It has the settings that the manifests give it, but for its addresses and `flags`."""

    def __init__(self, address: str, port: int, folder: pathlib.Path, *flags: str, device: str = "cpu"):
        self.address = address
        self.host = f"{address}:{port}"
        self.metrics_host = f"{address}:{port + METRICS_PORT_OFFSET}"
        self.log = folder / f"{address}.log"
        self.flags = [f"--device={device}", *(["--threads=1"] if device == "cpu" else []), *flags]
        self.process: subprocess.Popen | None = None

    def start(self, stderr: int | None = None, **variables: str):
        """Returns when it listens. It logs to a file, or to that descriptor."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGITD_", "RUST_"))}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [os.environ["LOGITD"], "serve", f"--config={DEPLOY / 'kubernetes' / 'base' / 'logitd.toml'}",
                 f"--listen={self.host}", f"--metrics-listen={self.metrics_host}", *self.flags],
                env=environment | variables, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log if stderr is None else stderr)
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.metrics()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{self.host} did not start:\n{self.log.read_text()}")

    def send(self, number: signal.Signals):
        self.process.send_signal(number)

    def stopped(self) -> int:
        """Waits for its end, and returns how it ended."""
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self):
        """Ends it, however it is."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def metrics(self) -> dict[str, float]:
        """What it counts, by name and labels."""
        text = urllib.request.urlopen(f"http://{self.metrics_host}/metrics", timeout=5).read().decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def requests(self, code: str = "OK") -> int:
        """Requests that it has answered with this code."""
        return int(self.metrics().get(f'logitd_requests_total{{code="{code}"}}', 0))
