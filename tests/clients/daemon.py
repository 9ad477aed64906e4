"""A running `logitd serve` on free ports."""

import json
import os
import signal
import subprocess
import threading

START_TIMEOUT_S = 60


class Daemon:
    """`with Daemon("--flag") as daemon:`; leaving it stops the server and checks that it drained."""

    def __init__(self, *flags: str):
        self.flags = flags
        self.addresses: list[str] = []
        self.metrics: str | None = None
        self.page: str | None = None

    def __enter__(self) -> "Daemon":
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGITD_", "RUST_"))}
        self.process = subprocess.Popen(
            [os.environ["LOGITD"], "serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0",
             "--log-format=json", *self.flags],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self.listening = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.listening.wait(START_TIMEOUT_S) or self.process.poll() is not None:
            self.process.kill()
            raise RuntimeError("logitd did not start:\n" + "".join(self.lines))
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.reader.join()
        if code != 0:
            raise RuntimeError(f"logitd ended with {code}:\n" + "".join(self.lines))

    @property
    def host(self) -> str:
        """IP:PORT of the gRPC listener."""
        return self.addresses[0].split("://")[1]

    def _read(self):
        expected = 1 + sum(flag.startswith("--listen") for flag in self.flags)
        for line in self.process.stdout:
            self.lines.append(line)
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if event.get("message") == "metrics":
                self.metrics = event["address"]
            if event.get("message") == "page":
                self.page = event["address"].rstrip("/")
            if event.get("message") == "listening":
                self.addresses.append(event["address"])
                if len(self.addresses) == expected:
                    self.listening.set()
        self.listening.set()
