"""What `logitd.testing` offers to tests of others."""

import os
import pathlib
import struct
import zlib

import numpy as np
import pytest

import logitd
from logitd.testing import assert_same_bits, replay

X = np.random.default_rng(4).normal(0, 3, (5, 700)).astype(np.float32)
# Long ones, which stand out in a file.
SEEDS = [1 << 50 | row for row in range(5)]
RULES = {"temperature": 0.8, "top_k": 40, "draws": 2}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Three calls of five rows, recorded; two of them leave their seeds to the client."""
    if "LOGITD" not in os.environ:
        pytest.skip("LOGITD names no binary (cargo build --release makes one)")
    path = tmp_path_factory.mktemp("trace") / "a.trace"
    with logitd.Server("cpu", f"--record={path}") as server:
        client = logitd.Client(server.target, timeout=60)
        for controls in [{}, {"seed": SEEDS, "repetition_penalty": 1.5, "output": [1, 2]}, {"draw_rule": "race"}]:
            client.sample(X, **RULES, **controls)
    return path


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_trace_replays_to_the_bit(trace: pathlib.Path, device: str) -> None:
    said = replay(trace, device)
    print(said)
    assert "15 rows compared" in said and "0 differences" in said


def test_the_first_row_that_differs_is_named(trace: pathlib.Path, tmp_path: pathlib.Path) -> None:
    changed = tmp_path / "changed.trace"
    changed.write_bytes(with_another_seed(trace.read_bytes()))
    with pytest.raises(AssertionError, match=r"1 rows DIFFER") as raised:
        replay(changed)
    print(raised.value)
    assert "request 1, answered by cpu: row 3" in str(raised.value) and "written" not in str(raised.value)


def test_what_is_no_whole_trace_is_no_difference(trace: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torn = tmp_path / "torn.trace"
    torn.write_bytes(trace.read_bytes()[:-9])
    with pytest.raises(ValueError, match="lost: "):
        replay(torn)
    torn.write_bytes(b"no trace at all")
    with pytest.raises(ValueError, match="torn.trace"):
        replay(torn)


def with_another_seed(trace: bytes) -> bytes:
    """The answer says another seed of the fourth row of the second call than its draws come from."""
    at, frames, changes = 16, [trace[:16]], 0
    while at < len(trace):
        length, = struct.unpack_from("<I", trace, at)
        body = trace[at + 8:at + 8 + length]
        changes += body.count(answered(SEEDS[3]))
        body = body.replace(answered(SEEDS[3]), answered(SEEDS[3] + 100))
        frames += [struct.pack("<II", length, zlib.crc32(trace[at:at + 4] + body)), body]
        at += 8 + length
    assert changes == 1
    return b"".join(frames)


def answered(seed: int) -> bytes:
    """The field `seed` of a `RowResult`, as it is written."""
    groups = [seed >> shift & 0x7F for shift in range(0, seed.bit_length(), 7)]
    return bytes([6 << 3, *(group | 0x80 for group in groups[:-1]), groups[-1]])


def test_a_bit_that_differs_is_found() -> None:
    a = logitd.sample(X, **RULES, seed=range(5))
    assert_same_bits(a, logitd.sample(X, **RULES, seed=range(5)))
    with pytest.raises(AssertionError, match=r"row 3 differs \(and 0 more\): OK, draws"):
        assert_same_bits(a, logitd.sample(X, **RULES, seed=[0, 1, 2, 99, 4]))
    with pytest.raises(AssertionError, match="5 rows are not 4 rows"):
        assert_same_bits(a, logitd.sample(X[:4], **RULES, seed=range(4)))
