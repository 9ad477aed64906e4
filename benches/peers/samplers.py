"""The samplers of others, as their users call them: each is a function from an f16 row and a case to a token.

What a sampler needs in between (widening, an array of candidates, probabilities, a mask of bits made a mask of
tokens) counts, as it would in use. A sampler that has no way to do a case raises `NoWay`.
"""

import ctypes
import dataclasses
import functools
import pathlib
from importlib import metadata

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """What `logitd bench` calls the same: parameters, what is done to single logits, what is asked for."""

    name: str
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 0.8
    values: str = "real"
    mask: bool = False
    biases: int = 0
    race: bool = False
    logprobs: int = 0

    def bitmask(self, vocab_size: int) -> np.ndarray:
        """A bit a token, 32 a word; half of them are set. As `logitd bench` makes it."""
        return _bitmask(vocab_size)

    def bias(self, vocab_size: int) -> dict[int, float]:
        """As `logitd bench` makes it."""
        return {i * (vocab_size // self.biases): i % 9 * 0.5 - 2.0 for i in range(self.biases)}


@functools.cache
def _bitmask(vocab_size):
    i = np.arange(-(-vocab_size // 32), dtype=np.uint64)
    other = i * 0x85EBCA6B & 0xFFFFFFFF
    return ((i * 0x9E3779B9 ^ (other << 13 | other >> 19)) & 0xFFFFFFFF).astype(np.uint32)


class NoWay(Exception):
    """The library offers nothing that does this case."""


def masked(scores, case):
    """Applies a mask to scores of torch in place, as the users of grammars do."""
    try:
        import torch
        import xgrammar
    except ImportError:
        raise NoWay("the mask is applied by xgrammar, which is missing") from None
    bitmask = torch.from_numpy(case.bitmask(scores.shape[-1]).view(np.int32))
    xgrammar.apply_token_bitmask_inplace(scores, bitmask[None])
    return scores


def with_numpy():
    random = np.random.default_rng(1)

    def sample(row, case):
        if case.temperature == 0:
            return int(np.argmax(row))
        raw = x = row.astype(np.float32)
        if case.mask:
            bits = np.unpackbits(case.bitmask(len(row)).view(np.uint8), bitorder="little")
            x = np.where(bits[: len(row)], x, np.float32("-inf"))
        if case.biases:
            x = x.copy()
            bias = case.bias(len(row))
            x[list(bias)] += np.array(list(bias.values()), np.float32)
        x = x / np.float32(case.temperature)
        ids = None
        if case.top_k:
            ids = np.argpartition(x, -case.top_k)[-case.top_k :]
            x = x[ids]
        p = np.exp(x - x.max())
        p /= p.sum()
        if case.top_p < 1:
            order = np.argsort(-p)
            p = p[order]
            ids = order if ids is None else ids[order]
            n = int(np.searchsorted(np.cumsum(p), case.top_p)) + 1
            p, ids = p[:n], ids[:n]
        if case.race:
            i = int(np.argmax(p / random.exponential(size=len(p))))
        else:
            sums = np.cumsum(p)
            i = min(int(np.searchsorted(sums, random.random() * sums[-1], side="right")), len(p) - 1)
        token = int(i if ids is None else ids[i])
        if case.logprobs:
            most = raw.max()
            of_all = raw - (most + np.log(np.exp(raw - most).sum()))
            top = np.argpartition(of_all, -case.logprobs)[-case.logprobs :]
            top = top[np.argsort(-of_all[top])]
            return token, of_all[token], int((raw > raw[token]).sum()) + 1, top, of_all[top]
        return token

    return "numpy", np.__version__, sample


def with_torch():
    import torch

    torch.set_num_threads(1)

    @torch.inference_mode()
    def sample(row, case):
        x = torch.from_numpy(row)
        if case.temperature == 0:
            return int(x.float().argmax())  # of f16 it takes five times as long
        raw, ids = x.float(), None
        x = raw
        if case.mask:
            x = masked(raw.clone()[None], case)[0]
        if case.biases:
            x = raw.clone() if x is raw else x
            bias = case.bias(len(row))
            x.index_add_(0, torch.tensor(list(bias)), torch.tensor(list(bias.values())))
        x = x / case.temperature
        if case.top_k:
            x, ids = torch.topk(x, case.top_k)
        p = torch.softmax(x, -1)
        if case.top_p < 1 and not case.top_k:
            # Most nuclei are small: everything is sorted only where this one is not.
            whole = p
            p, ids = torch.topk(whole, 1024)
            if p.sum() < case.top_p:
                p, ids = torch.sort(whole, descending=True)
        if case.top_p < 1:
            n = int(torch.searchsorted(torch.cumsum(p, -1), case.top_p)) + 1
            p, ids = p[:n], ids[:n]
        # What vLLM draws by, and multinomial within; multinomial checks its input first, which needs time too.
        i = int((p / torch.empty_like(p).exponential_()).argmax() if case.race else torch.multinomial(p, 1))
        token = int(i if ids is None else ids[i])
        if case.logprobs:
            # As vLLM gathers them.
            of_all = torch.log_softmax(raw, -1)
            top, top_ids = torch.topk(of_all, case.logprobs)
            return token, float(of_all[token]), int((of_all >= of_all[token]).sum()), top_ids, top
        return token

    return "torch", torch.__version__, sample


def with_transformers():
    import torch
    import transformers
    from transformers.generation import logits_process as processors

    torch.set_num_threads(1)
    no_ids = torch.zeros((1, 0), dtype=torch.long)

    @functools.cache
    def chain(case, vocab_size):
        made = processors.LogitsProcessorList()
        if case.mask:
            made.append(lambda _, scores: masked(scores, case))
        if case.biases:
            bias = case.bias(vocab_size)
            made.append(processors.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()]))
        made.append(processors.TemperatureLogitsWarper(case.temperature))
        if case.top_k:
            made.append(processors.TopKLogitsWarper(case.top_k))
        if case.top_p < 1:
            made.append(processors.TopPLogitsWarper(case.top_p))
        return made

    @torch.inference_mode()
    def sample(row, case):
        if case.logprobs or case.race:
            raise NoWay("generate has no such option")
        # As generate does it.
        scores = torch.from_numpy(row)[None].to(copy=True, dtype=torch.float32)
        if case.temperature == 0:
            return int(scores.argmax(-1))
        scores = chain(case, len(row))(no_ids, scores)
        return int(torch.multinomial(torch.softmax(scores, -1), 1))

    return "transformers", transformers.__version__, sample


def with_llama_cpp():
    # llama.cpp's C API by itself: what the package adds in Python is not timed.
    package = metadata.distribution("llama-cpp-python")
    lib = ctypes.CDLL(str(pathlib.Path(package.locate_file("llama_cpp/lib/libllama.so"))))

    class Params(ctypes.Structure):
        _fields_ = [("no_perf", ctypes.c_bool)]

    class Candidates(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p),
            ("size", ctypes.c_size_t),
            ("selected", ctypes.c_int64),
            ("sorted", ctypes.c_bool),
        ]

    class Bias(ctypes.Structure):
        _fields_ = [("token", ctypes.c_int32), ("bias", ctypes.c_float)]

    def function(name, result, *arguments):
        found = getattr(lib, name)
        found.restype, found.argtypes = result, arguments
        return found

    pointer, f32, i32 = ctypes.c_void_p, ctypes.c_float, ctypes.c_int32
    defaults = function("llama_sampler_chain_default_params", Params)
    new_chain = function("llama_sampler_chain_init", pointer, Params)
    add = function("llama_sampler_chain_add", None, pointer, pointer)
    greedy = function("llama_sampler_init_greedy", pointer)
    bias = function("llama_sampler_init_logit_bias", pointer, i32, i32, ctypes.POINTER(Bias))
    temp = function("llama_sampler_init_temp", pointer, f32)
    by_k = function("llama_sampler_init_top_k", pointer, i32)
    by_p = function("llama_sampler_init_top_p", pointer, f32, ctypes.c_size_t)
    draw = function("llama_sampler_init_dist", pointer, ctypes.c_uint32)
    apply = function("llama_sampler_apply", None, pointer, ctypes.POINTER(Candidates))
    layout = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])

    @functools.cache
    def array_of(vocab_size):
        return np.empty(vocab_size, dtype=layout), np.arange(vocab_size, dtype=np.int32)

    @functools.cache
    def chain(case, vocab_size):
        made = new_chain(defaults())
        if case.biases:
            values = case.bias(vocab_size)
            add(made, bias(vocab_size, len(values), (Bias * len(values))(*values.items())))
        if case.temperature == 0:
            add(made, greedy())
            return made
        # Temperature first: the order in which its top_p means what others' does.
        add(made, temp(case.temperature))
        if case.top_k:
            add(made, by_k(case.top_k))
        if case.top_p < 1:
            add(made, by_p(case.top_p, 1))
        add(made, draw(1))
        return made

    def sample(row, case):
        if case.logprobs or case.race:
            raise NoWay("the library has no such sampler")
        candidates, ids = array_of(len(row))
        candidates["id"], candidates["logit"] = ids, row
        if case.mask:
            # As its grammar samplers do it: what is banned becomes -inf.
            bits = np.unpackbits(case.bitmask(len(row)).view(np.uint8), bitorder="little")
            candidates["logit"][bits[: len(row)] == 0] = -np.inf
        array = Candidates(candidates.ctypes.data, len(row), -1, False)
        apply(chain(case, len(row)), array)
        return int(candidates["id"][array.selected])

    return "llama.cpp", "llama-cpp-python " + package.version, sample


ALL = {"numpy": with_numpy, "torch": with_torch, "transformers": with_transformers, "llama_cpp": with_llama_cpp}
