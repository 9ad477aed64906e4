"""Open-loop load by `logitd load`, one process a question: how did callers fare in these seconds?"""

import dataclasses
import json
import os
import pathlib
import subprocess

ANSWER_TIMEOUT_S = 30
EXIT_TIMEOUT_S = 120


@dataclasses.dataclass
class Pace:
    """What is sent."""

    rate: float
    vocab_size: int = 128_256
    rows: str = "1"


class Load:
    """Requests to a target for some seconds, every answer checked to the bit. When this returns it has sent for a second."""

    def __init__(self, host: str, pace: Pace, seconds: float):
        self._start(host, f"--rate={pace.rate}", f"--rows={pace.rows}", f"--vocab-size={pace.vocab_size}",
                    f"--duration={seconds}s", "--warmup=0s", "--outstanding-max=16384", "--check-with=cpu")

    @classmethod
    def of_trace(cls, host: str, trace: pathlib.Path) -> "Load":
        """The requests of a recording; answers are compared with those that it has."""
        load = cls.__new__(cls)
        load._start(host, f"--replay={trace}")
        return load

    def _start(self, host: str, *flags: str):
        self.process = subprocess.Popen(
            [os.environ["LOGITD"], "load", f"--target=http://{host}", *flags, f"--timeout={ANSWER_TIMEOUT_S}s",
             "--check=1", "--check-rows-max=1000000", "--json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # Progress, a line a second.
        self.first = self.process.stderr.readline()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> "Outcome":
        """Waits for its end."""
        out, error = self.process.communicate(timeout=EXIT_TIMEOUT_S)
        if not out:
            raise RuntimeError(f"logitd load found nothing:\n{self.first}{error}")
        found = json.loads(out)
        return Outcome(found["runs"][0], found.get("check"))


class Outcome:
    """What came of it."""

    def __init__(self, run: dict, check: dict | None):
        self.run, self.check = run, check

    @property
    def lost(self) -> int:
        """Requests without results in the end, whatever the reason."""
        return self.run["requests"] - self.run["answered"]

    def __str__(self) -> str:
        response = self.run["response"]
        milliseconds = "  ".join(f"{name} {response[f'{name}_us'] / 1000:,.1f}" for name in ("p50", "p99", "max"))
        return f"{self.run['answered']:>6,} answered  {self.lost} lost  ms: {milliseconds}"
