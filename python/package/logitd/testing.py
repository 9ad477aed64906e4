"""For tests of what uses logitd: a server as a fixture of pytest, results compared bit by bit, recorded traffic replayed.

    from logitd.testing import assert_same_bits, logitd_server, replay
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from . import Results, Server, Status
from .server import environment, found

__all__ = ["assert_same_bits", "logitd_server", "replay"]

# What results have for each row. Seeds are not among them: they are asked for, not found.
COMPARED = ["status", "kept", "kept_mass", "draws", "draw_logprobs", "mirostat_mu", "adaptive_sum", "adaptive_weight"]


@pytest.fixture(scope="session")
def logitd_server() -> Iterator[Server]:
    """A server on the processor, for all tests of a session."""
    with Server() as server:
        yield server


def assert_same_bits(a: Results, b: Results) -> None:
    """Fails where two results differ in any bit, and names the first row that does."""
    assert len(a) == len(b), f"{len(a)} rows are not {len(b)} rows"
    for name in COMPARED:
        left, right = getattr(a, name), getattr(b, name)
        assert left.shape == right.shape, f"{name} has the shape {left.shape}, and {right.shape}"
        # As bytes: NaN is NaN, and 0 is not -0.
        differing = [row for row in range(len(a)) if left[row].tobytes() != right[row].tobytes()]
        if differing:
            row = differing[0]
            said = [f"{Status(int(of.status[row])).name}, {name} {getattr(of, name)[row].tolist()}" for of in (a, b)]
            raise AssertionError(f"row {row} differs (and {len(differing) - 1} more): {said[0]}; {said[1]}")


def replay(
    trace: str | os.PathLike[str], device: str = "cpu", *, binary: str | os.PathLike[str] | None = None
) -> str:
    """Samples every request of a trace again and fails where an answer differs in any bit, naming the first row that does.

    A trace is what `logitd serve --record FILE` writes, or `Server("cpu", f"--record={FILE}")`. It has the seeds that were used, so it
    needs neither the server nor the device that answered. `device` is what `logitd verify --a` takes: cpu, reference, cuda:0; the
    binary is found as `Server` finds it. Returns what the binary says: how many rows were compared.

    A trace of which something cannot be checked, or that is damaged, is a ValueError.
    """
    with tempfile.TemporaryDirectory(prefix="logitd-") as folder:
        run = subprocess.run(
            [found(binary), "verify", "--recorded", os.fspath(trace), "--a", device, "--dump", folder],
            env=environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
    # The dump is of no use: it is gone.
    said = "\n".join(line for line in (run.stdout + run.stderr).splitlines() if not line.startswith("written:"))
    if run.returncode == 1:
        raise AssertionError(said)
    if run.returncode != 0 or "lost: " in said:
        raise ValueError(said)
    return said
