"""Tensors of torch. It is large, so these tests run where it is installed: `.ci/run python` with CI_LONG=1."""

import os

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (CI_LONG=1 installs it)")

import logitd  # noqa: E402
from logitd.testing import assert_same_bits, logitd_server  # noqa: E402

__all__ = ["logitd_server"]

RULES = {"temperature": 0.8, "top_k": 40, "seed": [1, 2, 3]}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_are_read_where_they_lie(dtype: "torch.dtype") -> None:
    x = torch.randn(3, 2048, dtype=torch.float32).to(dtype)
    results = logitd.sample(x, **RULES)
    assert logitd.sample(x.float(), **RULES).tokens.tolist() == results.tokens.tolist()
    assert logitd.sample(x[:, :1000], **RULES).tokens.tolist() == logitd.sample(x[:, :1000].contiguous(), **RULES).tokens.tolist()
    assert x.gather(1, torch.from_numpy(results.tokens)[:, None]).shape == (3, 1)
    with pytest.raises(ValueError, match=r"x\.contiguous\(\)"):
        logitd.sample(x[:, ::2])


def test_controls_are_tensors_too() -> None:
    x = torch.randn(3, 64)
    mask = torch.tensor([[1 << 5, 0], [-(1 << 31), 0], [0, 1]], dtype=torch.int32)
    results = logitd.sample(x, allowed_bitmask=mask, temperature=torch.full((3,), 0.5), top_k=torch.tensor([1, 2, 3]))
    assert results.tokens.tolist() == [5, 31, 32]
    assert logitd.sample(x, allowed_ids=torch.tensor([7])).tokens.tolist() == [7] * 3


def test_what_torch_does_not_give_away_is_said_by_torch() -> None:
    with pytest.raises(BufferError, match="detach"):
        logitd.sample(torch.randn(2, 8, requires_grad=True))
    with pytest.raises(TypeError, match=r"float64.*x\.float\(\)"):
        logitd.sample(torch.randn(2, 8, dtype=torch.float64))


@pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")
@pytest.mark.parametrize(("name", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)])
def test_tensors_of_staged_memory_are_sampled_where_they_are(name: str, dtype: "torch.dtype", logitd_server: logitd.Server) -> None:
    x = torch.randn(3, 2048).to(dtype)
    for client in [logitd.Client(logitd_server.target, plane="direct"), logitd.Client(logitd_server.address)]:
        with client.staging((3, 2048), name) as buf:
            tensor = torch.from_dlpack(buf)
            assert tensor.dtype == dtype and tensor.data_ptr() == buf.array.ctypes.data
            tensor.copy_(x)
            for of in [buf, tensor, tensor[:, :2048]]:
                assert_same_bits(client.sample(of, **RULES), logitd.sample(x, **RULES))
            if dtype != torch.bfloat16:
                torch.from_numpy(buf.array).zero_()
                assert not tensor.any()


def test_a_tensor_that_is_not_its_memory_is_not_read_as_such() -> None:
    # Its sign is a flag of the tensor.
    negative = torch.randn(2, 8, dtype=torch.cfloat).conj().imag
    assert negative.is_neg()
    with pytest.raises((BufferError, ValueError)):
        logitd.sample(negative)
    x = negative.resolve_neg().contiguous()
    assert logitd.sample(x, **(RULES | {"seed": 1})).tokens.tolist() == logitd.sample(x.numpy(), **(RULES | {"seed": 1})).tokens.tolist()
    with pytest.raises(RuntimeError):
        logitd.sample(torch.eye(3).to_sparse())


def test_tensors_of_every_kind_of_class_and_the_memory_of_those_that_go() -> None:
    class Tensor(torch.Tensor):
        pass

    x = torch.randn(3, 2048)
    expected = logitd.sample(x, **RULES)
    for tensor in [x.as_subclass(Tensor), torch.nn.Parameter(x, requires_grad=False), x[0:3], x.clone()]:
        assert_same_bits(logitd.sample(tensor, **RULES), expected)
    assert_same_bits(logitd.sample(x.expand(2, 3, 2048)[1], **RULES), expected)
    for _ in range(1000):
        logitd.sample(torch.zeros(1, 4096), temperature=0)
    with pytest.raises(ValueError, match="x has 3 dimensions"):
        logitd.sample(x[None])
    with pytest.raises(TypeError, match="no type of numbers"):
        logitd.sample(x.to(torch.float8_e4m3fn))
