"""What logits may be: arrays of any owner, where they lie."""

import array

import ml_dtypes
import numpy as np
import pytest
from tensors import DLPack

import logitd

RULES = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7}


def logits(rows: int, vocab_size: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(rows * vocab_size).normal(0, 3, (rows, vocab_size)).astype(dtype)


def tokens(x: object) -> list[int]:
    return logitd.sample(x, **RULES).raise_for_status().tokens.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("place", ["rows apart", "backwards", "one row for all", "unaligned", "Fortran, a column", "read-only"])
def test_rows_lie_anywhere(dtype: type, place: str) -> None:
    x = logits(5, 700, dtype)
    if place == "rows apart":
        x = logits(5, 1024, dtype)[:, :700]
    elif place == "backwards":
        x = x[::-1]
    elif place == "one row for all":
        x = np.broadcast_to(x[0], x.shape)
    elif place == "unaligned":
        x = np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    elif place == "Fortran, a column":
        x = np.asfortranarray(x[:, :1])
    else:
        x.setflags(write=False)
    expected = tokens(np.ascontiguousarray(x))
    assert tokens(x) == expected
    stored, is_bfloat16 = (x, False) if dtype != ml_dtypes.bfloat16 else (x.view(np.uint16), True)
    if place != "unaligned":
        assert tokens(DLPack(stored, bfloat16=is_bfloat16)) == expected


def test_one_dimension_is_a_row() -> None:
    x = logits(3, 100)
    alone = logitd.sample(x[1], **RULES)
    assert len(alone) == 1 and alone.tokens.shape == (1,) and alone.draws.shape == (1, 1)
    assert alone.tokens[0] == logitd.sample(x, **RULES).tokens[1]
    assert tokens(DLPack(x[1])) == alone.tokens.tolist()


def test_a_tensor_without_strides_is_contiguous_and_may_begin_later() -> None:
    x = logits(4, 50)
    assert tokens(DLPack(x, contiguous=True, offset=16)) == tokens(x)
    assert tokens(DLPack(x[2], contiguous=True)) == tokens(x[2])
    # Memory that is pinned for a GPU is the processor's too.
    assert tokens(DLPack(x, device_type=3)) == tokens(x)


def test_a_buffer_is_an_array() -> None:
    x = logits(1, 50)
    assert tokens(memoryview(x)) == tokens(x)
    assert tokens(array.array("f", x[0].tolist())) == tokens(x[0])


def test_what_is_written_before_a_call_is_what_is_sampled() -> None:
    x = np.zeros((2, 9), np.float32)
    for token in range(9):
        x[:] = 0
        x[:, token] = 50
        assert tokens(x) == [token, token]
        assert tokens(DLPack(x)) == [token, token]


def test_no_rows_are_no_results() -> None:
    results = logitd.sample(np.zeros((0, 9), np.float32), seed=[])
    assert len(results) == 0 and results.tokens.shape == (0,) and results.draws.shape == (0, 1)


@pytest.mark.parametrize(("x", "error", "part"), [
    (np.zeros((2, 3)), TypeError, "float64; allowed: float16, bfloat16, float32.*astype.*float()"),
    (DLPack(np.zeros((2, 3))), TypeError, "float64; allowed"),
    (np.zeros((2, 3), np.int32), TypeError, "int32; allowed"),
    (np.zeros((2, 3), np.complex64), TypeError, "no type of numbers"),
    (np.zeros((2, 3), "V2"), TypeError, "no type of numbers"),
    (np.zeros((2, 3), ml_dtypes.float8_e4m3), TypeError, "no type of numbers"),
    (np.zeros((2, 3), ">f4"), TypeError, "big-endian"),
    (np.zeros((2, 6), np.float32)[:, ::2], ValueError, r"contiguous\(\)"),
    (np.zeros((2, 6), np.float32).T, ValueError, r"contiguous\(\)"),
    (DLPack(np.zeros((2, 6), np.float32)[:, ::2]), ValueError, r"contiguous\(\)"),
    (np.zeros((1, 2, 3), np.float32), ValueError, "x has 3 dimensions; allowed: 2, or 1"),
    (DLPack(np.zeros((1, 2, 3), np.float32)), ValueError, "x has 3 dimensions"),
    (np.float32(3), ValueError, "x has 0 dimensions"),
    (DLPack(np.zeros((2, 3), np.float32), device_type=2), TypeError, r"another device.*x\.cpu\(\)"),
    (np.zeros((2, 0), np.float32), ValueError, "vocab_size is 0; allowed: 1 to 1048576"),
    (np.zeros((1, (1 << 20) + 1), np.float16), ValueError, "vocab_size is 1048577"),
    ([[1.0, 2.0]], TypeError, "float64"),
    ("logits", TypeError, "x is a <class 'str'>; allowed: an array of logits"),
    (None, TypeError, "x is a <class 'NoneType'>; allowed"),
])
def test_what_is_no_logits_is_told_what_to_do(x: object, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        logitd.sample(x)
