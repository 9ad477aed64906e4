"""Times other people's samplers on the rows that `logitd bench` times, one thread, out of cache.

    pip install numpy torch; pip install --no-deps llama-cpp-cffi     # what is missing is left out
    python benches/peers/cpu.py --logits ROWS.npy    # f16 [rows, vocab], the first 128,256 tokens of each

Prints one JSON object a line: the peer, its version, the case, and the median of some passes in
microseconds a row. Every peer starts from the same f16 rows and ends with a token; what it needs in
between (widening, an array of candidates, probabilities) counts, as it would in use. Each is used in
the fastest way that its users use it: numpy sorts, torch takes `topk` and sorts where that is not enough,
llama.cpp runs its chain of samplers over an array of candidates, which numpy fills.
"""

import argparse
import ctypes
import importlib.util
import json
import pathlib
import statistics
import time
from importlib import metadata

import numpy as np

ROWS, VOCAB_SIZE, PASSES = 64, 128_256, 3
TEMPERATURE = 0.8
# name, top_k, top_p, temperature, values
CASES = [
    ("greedy", 0, 1.0, 0.0, "real"),
    ("top_k_top_p", 50, 0.95, TEMPERATURE, "real"),
    ("top_p", 0, 0.95, TEMPERATURE, "real"),
    ("temperature", 0, 1.0, TEMPERATURE, "real"),
    ("top_p_t10", 0, 0.95, 10.0, "real"),
    ("constant_top_p", 0, 0.95, TEMPERATURE, "constant"),
    ("normal_top_p", 0, 0.95, 1.0, "normal"),
]


def with_numpy():
    random = np.random.default_rng(1)

    def sample(row, top_k, top_p, temperature):
        if temperature == 0:
            return int(np.argmax(row))
        x = row.astype(np.float32) / np.float32(temperature)
        ids = None
        if top_k:
            ids = np.argpartition(x, -top_k)[-top_k:]
            x = x[ids]
        p = np.exp(x - x.max())
        p /= p.sum()
        if top_p < 1:
            order = np.argsort(-p)
            p = p[order]
            ids = order if ids is None else ids[order]
            n = int(np.searchsorted(np.cumsum(p), top_p)) + 1
            p, ids = p[:n], ids[:n]
        sums = np.cumsum(p)
        i = min(int(np.searchsorted(sums, random.random() * sums[-1], side="right")), len(p) - 1)
        return int(i if ids is None else ids[i])

    return "numpy", np.__version__, sample


def with_torch():
    import torch

    torch.set_num_threads(1)

    @torch.inference_mode()
    def sample(row, top_k, top_p, temperature):
        x = torch.from_numpy(row)
        if temperature == 0:
            return int(x.argmax())
        x, ids = x.float() / temperature, None
        if top_k:
            x, ids = torch.topk(x, top_k)
        p = torch.softmax(x, -1)
        if top_p < 1 and not top_k:
            # Most nuclei are small: everything is sorted only where this one is not.
            whole = p
            p, ids = torch.topk(whole, 1024)
            if p.sum() < top_p:
                p, ids = torch.sort(whole, descending=True)
        if top_p < 1:
            n = int(torch.searchsorted(torch.cumsum(p, -1), top_p)) + 1
            p, ids = p[:n], ids[:n]
        i = int(torch.multinomial(p, 1))
        return int(i if ids is None else ids[i])

    return "torch", torch.__version__, sample


def with_llama_cpp():
    # The package's compiled library has llama.cpp's C API; its Python side offers no bare samplers.
    package = importlib.util.find_spec("llama")
    if package is None:
        raise ImportError("no module named llama: pip install --no-deps llama-cpp-cffi")
    folder = pathlib.Path(package.submodule_search_locations[0])
    lib = ctypes.CDLL(str(next(folder.glob("_llama_cpp_cpu*.so"))))

    class Params(ctypes.Structure):
        _fields_ = [("no_perf", ctypes.c_bool)]

    class Candidates(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p),
            ("size", ctypes.c_size_t),
            ("selected", ctypes.c_int64),
            ("sorted", ctypes.c_bool),
        ]

    def function(name, result, *arguments):
        found = getattr(lib, name)
        found.restype, found.argtypes = result, arguments
        return found

    pointer, f32 = ctypes.c_void_p, ctypes.c_float
    defaults = function("llama_sampler_chain_default_params", Params)
    new_chain = function("llama_sampler_chain_init", pointer, Params)
    add = function("llama_sampler_chain_add", None, pointer, pointer)
    greedy = function("llama_sampler_init_greedy", pointer)
    temp = function("llama_sampler_init_temp", pointer, f32)
    by_k = function("llama_sampler_init_top_k", pointer, ctypes.c_int32)
    by_p = function("llama_sampler_init_top_p", pointer, f32, ctypes.c_size_t)
    draw = function("llama_sampler_init_dist", pointer, ctypes.c_uint32)
    apply = function("llama_sampler_apply", None, pointer, ctypes.POINTER(Candidates))
    layout = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    candidates = np.empty(VOCAB_SIZE, dtype=layout)
    ids = np.arange(VOCAB_SIZE, dtype=np.int32)
    chains = {}

    def chain(top_k, top_p, temperature):
        made = new_chain(defaults())
        if temperature == 0:
            add(made, greedy())
            return made
        # Temperature first: the order in which its top_p means what others' does.
        add(made, temp(temperature))
        if top_k:
            add(made, by_k(top_k))
        if top_p < 1:
            add(made, by_p(top_p, 1))
        add(made, draw(1))
        return made

    def sample(row, top_k, top_p, temperature):
        setting = (top_k, top_p, temperature)
        if setting not in chains:
            chains[setting] = chain(*setting)
        candidates["id"], candidates["logit"] = ids, row
        array = Candidates(candidates.ctypes.data, len(row), -1, False)
        apply(chains[setting], array)
        return int(candidates["id"][array.selected])

    return "llama.cpp", "llama-cpp-cffi " + metadata.version("llama-cpp-cffi"), sample


def rows_of(values, logits):
    if values == "constant":
        return np.full((ROWS, VOCAB_SIZE), 3, np.float16)
    if values == "normal":
        return np.random.default_rng(1).standard_normal((ROWS, VOCAB_SIZE), np.float32).astype(np.float16)
    real = np.load(logits, mmap_mode="r")[:, :VOCAB_SIZE]
    return np.concatenate([real] * (ROWS // len(real) + 1))[:ROWS].copy()


def check(sample, row, top_k, top_p, temperature):
    """A token of the nucleus, and with top_k 1 the first: a peer that is used wrongly is not timed."""
    assert row[sample(row, 0, 1.0, 0.0)] == row.max()
    x = row.astype(np.float64) / (temperature or 1)
    p = np.exp(x - x.max())
    order = np.argsort(-p, kind="stable")[: top_k or None]
    share = np.cumsum(p[order]) / p[order].sum()
    kept = order[: int(np.searchsorted(share, top_p)) + 2]
    for _ in range(3):
        token = sample(row, top_k, top_p, temperature)
        assert p[token] >= p[kept[-1]] * (1 - 1e-3), (token, p[token], p[kept[-1]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logits", required=True, help="f16 rows, .npy")
    parser.add_argument("--peer", action="append", help="only these: numpy, torch, llama_cpp")
    args = parser.parse_args()
    peers = []
    for name, make in [("numpy", with_numpy), ("torch", with_torch), ("llama_cpp", with_llama_cpp)]:
        if args.peer and name not in args.peer:
            continue
        try:
            peers.append(make())
        except (ImportError, OSError) as error:
            print(f"left out: {name}: {error}", flush=True)
    rows_by_values = {values: rows_of(values, args.logits) for values in ("real", "constant", "normal")}
    for case, top_k, top_p, temperature, values in CASES:
        rows = rows_by_values[values]
        for peer, version, sample in peers:
            check(sample, rows[0], top_k, top_p, temperature)
            times = []
            for _ in range(PASSES):
                start = time.perf_counter()
                for row in rows:
                    sample(row, top_k, top_p, temperature)
                times.append((time.perf_counter() - start) / len(rows) * 1e6)
            line = dict(case=case, peer=peer, version=version, threads=1, rows=ROWS, vocab_size=VOCAB_SIZE)
            print(json.dumps(line | dict(cached=False, us_per_row=round(statistics.median(times), 1))), flush=True)


if __name__ == "__main__":
    main()
