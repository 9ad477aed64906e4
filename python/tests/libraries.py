"""What other libraries keep of a row: their own samplers, of the version that is installed, with the keywords of `logitd.sample`.

A token that a library keeps has a logit or a weight afterwards; each returns the ids of these, ascending.
"""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


class Transformers:
    """The processors that `generate` makes of these parameters, in the order in which it makes them."""

    def __init__(self) -> None:
        self.torch, self.transformers = _installed("torch"), _installed("transformers")
        self.version = _version("transformers")

    def kept(self, row: np.ndarray, **controls: float) -> np.ndarray:
        # All that is not given is off.
        config = self.transformers.GenerationConfig(do_sample=True, **({"top_k": 0} | controls))
        processors = self.transformers.GenerationMixin()._get_logits_processor(config)
        scores = self.torch.tensor(row[None])
        for processor in processors:
            scores = processor(None, scores)
        return np.flatnonzero(np.isfinite(scores[0].numpy()))


class Vllm:
    """The part of its sampler that comes after penalties, and its min-p: without its engine, on tensors of torch."""

    def __init__(self) -> None:
        self.torch = _installed("torch")
        self.version = _version("vllm")
        sampler, self.processors, *_ = _alone(
            "vllm", "v1.sample.sampler", "v1.sample.logits_processor.builtin", "v1.sample.logits_processor.interface",
            "v1.sample.ops.topk_topp_sampler")
        self.sampler = sampler.Sampler("processed_logits")

    def kept(
        self, row: np.ndarray, temperature: float, top_k: int | None = None, top_p: float | None = None, min_p: float = 0
    ) -> np.ndarray:
        config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=1))
        processor = self.processors.MinPLogitsProcessor(config, self.torch.device("cpu"), False)
        request: tuple[Any, ...] = (0, SimpleNamespace(min_p=min_p), None, [])
        processor.update_state(SimpleNamespace(batch_size=1, added=[request], removed=[], moved=[]))
        asked = SimpleNamespace(
            all_greedy=False, all_random=True, generators={}, temperature=self.torch.tensor([temperature]),
            top_k=top_k and self.torch.tensor([top_k]), top_p=top_p and self.torch.tensor([top_p]),
            logitsprocs=SimpleNamespace(argmax_invariant=[processor]))
        _, logits = self.sampler.sample(self.torch.tensor(row[None]), asked)
        return np.flatnonzero(np.isfinite(logits[0].numpy()))


class Sglang:
    """What its sampler does on tensors of torch, where FlashInfer is not there."""

    def __init__(self) -> None:
        self.torch = _installed("torch")
        self.version = _version("sglang")
        self.sampler, = _alone("sglang", "srt.layers.sampler")

    def kept(
        self, row: np.ndarray, temperature: float, top_k: int = 1 << 30, top_p: float = 1, min_p: float = 0
    ) -> np.ndarray:
        probs = self.torch.softmax(self.torch.tensor(row[None]) / temperature, dim=-1)
        limits = [self.torch.tensor([limit]) for limit in (top_k, top_p, min_p)]
        _, weights, ids, _ = self.sampler.top_k_top_p_min_p_sampling_from_probs_torch(
            probs, *limits, min_p > 0, None, None, return_filtered_probs=True)
        return np.sort(ids[weights > 0].numpy())


class LlamaCpp:
    """Its samplers in a chain, in the order in which it has them by default."""

    def __init__(self) -> None:
        self.lib = _installed("llama_cpp")
        self.version = f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"

    def kept(self, row: np.ndarray, **controls: float) -> np.ndarray:
        lib = self.lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in self._samplers(controls):
            lib.llama_sampler_chain_add(chain, sampler)
        tokens = np.zeros(len(row), [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        tokens["id"], tokens["logit"] = np.arange(len(row)), row
        data = tokens.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data, len(row), -1, False)
        lib.llama_sampler_apply(chain, ctypes.byref(array))
        lib.llama_sampler_free(chain)
        # Samplers may point to memory of their own.
        at = ctypes.cast(array.data, ctypes.POINTER(ctypes.c_byte * (array.size * tokens.itemsize)))
        left = np.frombuffer(at.contents, tokens.dtype).copy()
        return np.sort(left["id"][np.isfinite(left["logit"])])

    def _samplers(self, controls: dict[str, float]) -> list[Any]:
        lib, left = self.lib, dict(controls)
        temperature = lib.llama_sampler_init_temp(left.pop("temperature"))
        if "mirostat_tau" in left:
            return [temperature, lib.llama_sampler_init_mirostat_v2(7, left["mirostat_tau"], 0.1)]
        make = {
            "top_n_sigma": lib.llama_sampler_init_top_n_sigma,
            "top_k": lib.llama_sampler_init_top_k,
            "typical_p": lambda p: lib.llama_sampler_init_typical(p, 1),
            "top_p": lambda p: lib.llama_sampler_init_top_p(p, 1),
            "min_p": lambda p: lib.llama_sampler_init_min_p(p, 1),
            # Its coin always falls.
            "xtc_threshold": lambda threshold: lib.llama_sampler_init_xtc(1, threshold, 1, 7),
        }
        left.pop("xtc_probability", None)
        chain = [made(left.pop(name)) for name, made in make.items() if name in left]
        assert not left, f"unknown: {left}"
        return [*chain, temperature]


def _installed(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed (CI_LONG=1 installs it)")


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed (CI_LONG=1 installs it)")


def _alone(package: str, *names: str) -> Sequence[Any]:
    """Modules of a package, each without what it imports from the rest of that package: an engine and all that it needs."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    wanted = [f"{package}.{name}" for name in names]
    rest = _Rest(package, wanted, spec.submodule_search_locations)
    assert package not in sys.modules
    sys.meta_path.insert(0, rest)
    try:
        return [importlib.import_module(name) for name in wanted]
    finally:
        # Whoever imports the package later gets all of it.
        sys.meta_path.remove(rest)
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


class _Rest(MetaPathFinder, Loader):
    """Stands in for all modules of a package but those that are wanted."""

    def __init__(self, package: str, wanted: Sequence[str], folders: Sequence[str]):
        self.package, self.wanted, self.folders = package, wanted, folders

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self.package or name in self.wanted:
            return None
        return ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        below = module.__name__.split(".")[1:]
        module.__path__ = ["/".join([folder, *below]) for folder in self.folders]
        module.__getattr__ = _missing  # type: ignore[method-assign]


class _Missing(type):
    """What a module that is left out would have: a class to be named in types, false, and false when called."""

    def __call__(cls, *_: object, **__: object) -> bool:
        return False

    def __getattr__(cls, name: str) -> Any:
        return _missing(name)

    def __contains__(cls, _: object) -> bool:
        return False

    def __bool__(cls) -> bool:
        return False


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Missing(name, (), {})
