"""What `test_cuda.py` runs in processes of their own, over the fake driver. Each function is a test."""

import functools
import os
import pathlib
import sys
from typing import Any

import numpy as np
from device import ByDLPack, ByInterface, Device

import logitd

RULES: dict[str, Any] = {"temperature": 0.8, "top_k": [40, 0, 5, 7], "top_p": 0.95, "seed": range(4), "draws": [1, 2, 3, 1]}
X = np.random.default_rng(9).normal(0, 3, (4, 3000)).astype(np.float16)


@functools.cache
def of_device() -> logitd.Sampler:
    """One is enough: it takes its time to prove itself."""
    return logitd.Sampler(device="cuda:0")


def arrays_of_every_kind_are_read_behind_their_streams() -> None:
    device, sampler = Device(), of_device()
    expected = logitd.sample(X, **RULES)
    for kind in (ByDLPack, ByInterface):
        for x in (kind(device, X), kind(device, X, padding=24)):
            for _ in range(2):
                same(sampler.sample(x, **RULES), expected)
                x.write()  # as an engine does in its next step
        wide = X.astype(np.float32)
        same(sampler.sample(kind(device, wide), **RULES), logitd.sample(wide, **RULES))
        single = sampler.sample(kind(device, X[1]), seed=1, logprobs="raw")
        assert single.raw.entropy.tolist() == logitd.sample(X[1], seed=1, logprobs="raw").raw.entropy.tolist()
    halves = (wide.view(np.uint32) >> 16).astype(np.uint16)
    same(sampler.sample(ByDLPack(device, halves), **RULES), logitd.sample((halves.astype(np.uint32) << 16).view(np.float32), **RULES))
    same(sampler.sample(ByDLPack(device, np.pad(X, ((0, 0), (0, 8)))), vocab_size=3000, **RULES), expected)
    same(sampler.sample(X, **RULES), expected)


def rows_that_the_processor_samples_come_from_there() -> None:
    device, sampler = Device(), of_device()
    x = ByDLPack(device, X)
    cuts: dict[str, Any] = {"top_a": 0.05, "seed": 3}
    same(sampler.sample(x, **cuts), logitd.sample(X, **cuts))
    x.write()
    drafts = [X[0].argmax(), 5, 6]
    found, expected = (by.verify(rows, drafts, mode="rejection", seed=4) for by, rows in [(sampler, x), (logitd, X)])
    assert found.tokens.tolist() == expected.tokens.tolist() and found.accepted.tolist() == expected.accepted.tolist()
    x.write()
    found, expected = (by.beam_step(rows, [0, 1, 2, 3], beams=4)[0].running for by, rows in [(sampler, x), (logitd, X)])
    assert found.scores.tolist() == expected.scores.tolist() and found.tokens.tolist() == expected.tokens.tolist()


def nothing_comes_through_the_host() -> None:
    device, sampler = Device(), of_device()
    x = ByDLPack(device, X)
    log = pathlib.Path(os.environ["FAKE_CUDA_LOG"])
    before = log.stat().st_size
    sampler.sample(x, **RULES)
    moved: dict[str, int] = {}
    for line in log.read_text()[before:].splitlines():
        what, *rest = line.split()
        moved[what] = moved.get(what, 0) + (1 if what == "launch" else int(rest[0]))
    assert moved.pop("copy") == X.nbytes and moved.pop("launch") == 1, moved
    assert moved.keys() == {"upload", "download"} and sum(moved.values()) < X.nbytes // 10, moved


def what_cannot_be_read_is_refused_by_name() -> None:
    device, sampler = Device(), of_device()
    x = ByDLPack(device, X)
    refused(TypeError, "x is in the memory of another device, and is read by the processor here; allowed: x.cpu(); only the x of a logitd.Sampler(device=\"cuda:0\") may lie on its device", lambda: logitd.sample(Stubborn(device, X)))
    device.ordinal = 1
    refused(ValueError, "x is on cuda:1, and the sampler on cuda:0; allowed: on the same device", lambda: sampler.sample(x))
    device.ordinal = 0
    x.row, x.shape = 1, (4, 30)
    x.strides = lambda: [1, 4]  # type: ignore[method-assign]
    refused(ValueError, "the logits of a row of x do not lie side by side", lambda: sampler.sample(x))
    x.strides = lambda: [-30, 1]  # type: ignore[method-assign]
    refused(ValueError, "the rows of x follow one another backwards; allowed on a device: forwards", lambda: sampler.sample(x))
    refused(TypeError, "x is an array of <f8 on a device; allowed: <f2, <f4", lambda: sampler.sample(Doubles(device, X)))
    refused(RuntimeError, "cuda:7: there is no such device", lambda: logitd.Sampler(device="cuda:7"))
    refused(ValueError, "the device cuda:0 has no threads and no isa", lambda: logitd.Sampler(device="cuda:0", threads=2))


def an_array_that_nobody_orders_is_a_fault() -> None:
    """The driver notices a read that comes behind no write: so that it would notice one of ours."""
    device, sampler = Device(), of_device()
    x = ByDLPack(device, X)
    x.waits = False
    sampler.sample(x, **RULES)


def a_stream_that_nobody_names_is_a_fault() -> None:
    device, sampler = Device(), of_device()
    x = ByInterface(device, X)
    x.says_stream = False
    sampler.sample(x, **RULES)


class Stubborn(ByDLPack):
    """It gives itself away whoever asks."""

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        return super().__dlpack__(stream=stream or self.device.stream.value)


class Doubles(ByInterface):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return super().__cuda_array_interface__ | {"typestr": "<f8"}


def same(found: logitd.Results, expected: logitd.Results) -> None:
    for name in ("status", "kept", "kept_mass", "draws", "draw_logprobs"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name


def refused(kind: type[Exception], said: str, call: Any) -> None:
    try:
        call()
    except kind as error:
        assert said in str(error), str(error)
    else:
        raise AssertionError(f"nothing was refused; wanted: {said}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
        print(f"done: {name}", flush=True)
