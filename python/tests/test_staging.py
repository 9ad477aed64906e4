"""Memory that logits are written to where the server reads them."""

import os
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tensors import DLPack

import logitd
from logitd import errors
from logitd.testing import assert_same_bits, logitd_server

__all__ = ["logitd_server"]

pytestmark = pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")

X = np.random.default_rng(9).normal(0, 3, (6, 5000)).astype(np.float32)
RULES: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": range(6)}


@pytest.fixture(params=["auto", "direct", "shared_memory", "inline", "tcp"])
def client(request: pytest.FixtureRequest, logitd_server: logitd.Server) -> logitd.Client:
    if request.param == "tcp":
        return logitd.Client(logitd_server.address, timeout=60)
    return logitd.Client(logitd_server.target, plane=request.param, timeout=60)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_what_is_written_there_is_sampled(dtype: Any, client: logitd.Client) -> None:
    kind = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}[dtype]
    for i in range(3):
        x = (X + i).astype(kind)
        with client.staging((6, 5000), dtype) as buf:
            assert (buf.shape, buf.dtype) == ((6, 5000), dtype) and repr(buf) == f"Staging((6, 5000), '{dtype}')".replace("'", '"')
            array = np.asarray(buf)
            assert array.flags.writeable and array.shape == (6, 5000)
            array.view(kind)[:] = x
            assert (buf.array == array).all() and np.asarray(buf, np.float64).dtype == np.float64
            expected = logitd.sample(x, **RULES)
            for of in [buf, array.view(kind), DLPack(array, bfloat16=dtype == "bf16")]:
                assert_same_bits(client.sample(of, **RULES), expected)
            assert_same_bits(logitd.sample(buf, **RULES), expected)
            # Some of the rows, some of the logits of each, both, and rows that begin elsewhere.
            for part, rows in [(array[:4], 4), (array[:, :4096], 6), (array[:3, :100], 3), (array[2:], 4), (array[:, 8:], 6), (array[::2], 3)]:
                rules = RULES | {"seed": range(rows)}
                assert_same_bits(client.sample(part.view(kind), **rules), logitd.sample(part.view(kind).copy(), **rules))
            assert_same_bits(client.sample(buf, vocab_size=70, **RULES), logitd.sample(x[:, :70], **RULES))


def test_an_array_is_a_copy_only_where_it_must_be(client: logitd.Client) -> None:
    with client.staging((6, 5000), "f32") as buf:
        for same in [np.asarray(buf), np.asarray(buf, np.float32), np.asarray(buf, "<f4"), buf.__array__(np.float32, copy=False)]:
            assert same.ctypes.data == buf.array.ctypes.data and same.flags.writeable
        for other in [np.array(buf), np.array(buf, np.float64), np.asarray(buf, np.float16), buf.__array__(copy=True)]:
            assert other.ctypes.data != buf.array.ctypes.data
        with pytest.raises(ValueError, match="array of float32, and one of float64 is a copy; allowed with copy=False: float32"):
            buf.__array__(np.float64, copy=False)


@pytest.mark.parametrize("plane", ["auto", "inline"])
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_more_than_there_is_is_an_error(plane: Any, dtype: Any, logitd_server: logitd.Server) -> None:
    client = logitd.Client(logitd_server.target, plane=plane)
    size = 4 if dtype == "f32" else 2
    with pytest.raises(MemoryError, match=rf"the shape \(1048576, 274877906944\) of {dtype} has {size << 58} bytes"):
        client.staging((1 << 20, 1 << 38), dtype)
    with client.staging((3, 1), dtype) as buf:
        assert buf.array.ctypes.data % 8 == 0


def test_no_copy_is_sent() -> None:
    # Larger than any message may be, and sampled all the same.
    with logitd.Server("cpu", "--message-bytes-max=64KiB") as server:
        client = logitd.Client(server.target)
        with client.staging((2, 100_000), "f32") as buf:
            buf.array[:] = 0
            buf.array[:, 77_777] = 9
            assert client.sample(buf, temperature=0).tokens.tolist() == [77_777] * 2
            buf.array[1, 5] = 10
            assert client.sample(buf, temperature=0).tokens.tolist() == [77_777, 5]


def test_memory_comes_back_when_nobody_writes_to_it_any_more(logitd_server: logitd.Server) -> None:
    client = logitd.Client(logitd_server.target, plane="direct")
    addresses = []
    for _ in range(3):
        with client.staging((6, 5000), "f32") as buf:
            addresses.append(buf.array.ctypes.data)
    assert len(set(addresses)) == 1
    with client.staging((6, 5000), "f32") as buf:
        late = buf.array
        late[:] = X
    with client.staging((6, 5000), "f32") as buf:
        assert buf.array.ctypes.data != late.ctypes.data == addresses[0]
        buf.array[:] = X[::-1]
        late[:] = np.nan
        assert_same_bits(client.sample(buf, **RULES), logitd.sample(X[::-1], **RULES))
    del late
    with client.staging((6, 5000), "f32") as one, client.staging((6, 5000), "f32") as two:
        assert one.array.ctypes.data != two.array.ctypes.data and addresses[0] in (one.array.ctypes.data, two.array.ctypes.data)
    # Other calls take other memory than what is lent.
    with client.staging((6, 5000), "f32") as buf:
        buf.array[:] = X
        client.sample(np.zeros_like(X))
        assert (buf.array == X).all()
    del client
    np.testing.assert_array_equal(buf.shape, (6, 5000))


def test_what_is_over_is_an_error(client: logitd.Client) -> None:
    with client.staging((6, 5000), "f32") as buf:
        pass
    for misuse in [lambda: buf.array, lambda: np.asarray(buf), lambda: client.sample(buf), lambda: logitd.sample(buf), lambda: buf.__dlpack__(), lambda: buf.__enter__()]:
        with pytest.raises(ValueError, match="given back at the end of its with block; client.staging"):
            misuse()
    for shape, dtype, said in [((0, 5), "f32", "allowed: rows and logits, 1 or more"), ((2**40, 2**40), "f16", "allowed: rows and logits"), ((1, 5), "f64", "dtype is f64; allowed: f16, bf16, f32")]:
        with pytest.raises(ValueError, match=said):
            client.staging(shape, dtype)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        client.staging((-1, 5), "f32")
    with client.staging((6, 5000), "f32") as buf:
        with pytest.raises(BufferError):
            buf.__dlpack__(dl_device=(2, 0))
        assert buf.__dlpack_device__() == (1, 0)


def test_numpy_takes_a_tensor_too(client: logitd.Client) -> None:
    for _ in range(3):
        with client.staging((2, 50), "f32") as buf:
            array = np.from_dlpack(buf)
            array[:] = X[:2, :50]
            assert (buf.array == X[:2, :50]).all()
            # Capsules that nobody takes give it back too.
            buf.__dlpack__(), buf.__dlpack__(max_version=(1, 0))


def test_memory_is_good_for_other_calls_after_one_that_failed() -> None:
    with logitd.Server("cpu", "--top-logprobs-max=4") as server:
        client = logitd.Client(server.target, plane="direct")
        with client.staging((6, 5000), "f32") as buf:
            buf.array[:] = X
            with pytest.raises(errors.InvalidArgument, match="top_logprobs_max"):
                client.sample(buf, logprobs=logitd.Logprobs("raw", top=5))
            assert_same_bits(client.sample(buf, **RULES), logitd.sample(X, **RULES))
