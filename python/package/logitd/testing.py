"""For tests of what uses logitd: a server as a fixture of pytest, and results compared bit by bit.

    from logitd.testing import assert_same_bits, logitd_server
"""

from collections.abc import Iterator

import pytest

from . import Results, Server, Status

__all__ = ["assert_same_bits", "logitd_server"]

# What results have for each row. Seeds are not among them: they are asked for, not found.
COMPARED = ["status", "kept", "kept_mass", "draws", "draw_logprobs"]


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
