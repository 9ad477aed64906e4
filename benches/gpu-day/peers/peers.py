#!/usr/bin/env python3
"""The same rows and parameters, by torch, by FlashInfer's kernels (compiled beforehand, called through ctypes), by
vLLM's Triton kernel where its file was carried, and by logitd; and the floor, one read of the rows.

Each is timed with its logits out of the L2 cache, as calls and, where it can be captured, as one graph: a graph
has no gaps for the host. One object a line."""

import argparse
import ctypes
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import torch
from common import TEMPERATURE, Clock, logits_of, parameter_tensors, torch_ways

VOCAB = 128_256
BATCHES = (1, 8, 32, 64, 128, 256)
PASSES = 15


def emit(**measured):
    print(json.dumps(measured), flush=True)


def say(what, error):
    print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr)


def time_both(clock, way, rows, call):
    """As calls, and as a graph."""
    try:
        emit(way=way, rows=rows, vocab_size=VOCAB, us=clock.microseconds(call))
    except Exception as error:
        return say(f"{way} is left out", error)
    try:
        emit(way=way + ", graph", rows=rows, vocab_size=VOCAB, us=clock.microseconds(graph_of(call)))
    except Exception as error:
        say(f"{way} is in no graph", error)


def graph_of(call):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


class Kernels:
    """The functions of peers.cu. Tensors and numbers in; an error is an exception."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.work = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
        # Zero at first, and left so by the kernels; one for each function, as FlashInfer keeps them.
        self.mask_states, self.top_k_states = (torch.zeros(4 << 20, dtype=torch.uint8, device="cuda") for _ in range(2))

    def __call__(self, name, *arguments):
        def convert(argument):
            if isinstance(argument, torch.Tensor):
                return ctypes.c_void_p(argument.data_ptr())
            if isinstance(argument, float):
                return ctypes.c_float(argument)
            return argument

        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        code = getattr(self.library, name)(*map(convert, arguments), stream)
        if code != 0:
            raise RuntimeError(f"{name}: error {code}")


def flashinfer_ways(kernels, logits, k, p):
    rows, vocab = logits.shape
    u32, u64 = ctypes.c_uint, ctypes.c_ulonglong
    wide = torch.empty(rows, vocab, device="cuda")
    probs, masked = torch.empty_like(wide), torch.empty_like(wide)
    token = torch.empty(rows, dtype=torch.int32, device="cuda")
    valid = torch.empty(rows, dtype=torch.bool, device="cuda")
    ids = torch.empty(rows, 50, dtype=torch.int32, device="cuda")
    values = torch.empty(rows, 50, dtype=torch.float16, device="cuda")
    p95 = torch.full((rows,), 0.95, device="cuda")
    work_bytes = ctypes.c_size_t(kernels.work.numel())

    def softmax(of, temperature):
        kernels("fi_softmax", of, probs, u32(rows), u32(vocab), temperature, kernels.work, work_bytes)

    def joint():
        wide.copy_(logits)
        softmax(wide, TEMPERATURE)
        kernels("fi_joint", probs, k, p, token, valid, u32(rows), u32(vocab), u64(1), u64(0))
        return token

    def top_k_first():
        wide.copy_(logits)
        kernels("fi_top_k_mask", wide, masked, k, u32(rows), u32(vocab), kernels.mask_states)
        softmax(masked, TEMPERATURE)
        kernels("fi_top_p", probs, p, token, valid, u32(rows), u32(vocab), u64(1), u64(0))
        return token

    def one_k():
        # Its fast path: one k for all rows, on f16 as it is; the rest over 50 tokens a row.
        kernels("fi_top_k_f16", logits, ids, values, u32(rows), u32(50), u32(vocab), kernels.top_k_states)
        few = torch.softmax(values.float() / TEMPERATURE, -1)
        kernels("fi_top_p", few, p95, token, valid, u32(rows), u32(50), u64(1), u64(0))
        return ids.gather(1, token.long()[:, None])

    def top_p():
        wide.copy_(logits)
        softmax(wide, TEMPERATURE)
        kernels("fi_top_p", probs, p95, token, valid, u32(rows), u32(vocab), u64(1), u64(0))
        return token

    slab = torch.empty(rows, 1024, device="cuda")
    slab_ids = torch.empty(rows, 1024, dtype=torch.int32, device="cuda")
    counts = torch.empty(rows, dtype=torch.int32, device="cuda")

    def cake(of_probs):
        kernels("cake_one_k", of_probs, slab, slab_ids, counts, token, u32(rows), u32(vocab), ctypes.c_int(50), 0.95, u64(1))

    def cake_from_logits():
        wide.copy_(logits)
        softmax(wide, TEMPERATURE)
        cake(probs)
        return token

    def cake_alone():
        cake(ready)

    ready = torch.softmax(logits.float() / TEMPERATURE, -1)

    def only_top_k():
        kernels("fi_top_k_f16", logits, ids, values, u32(rows), u32(50), u32(vocab), kernels.top_k_states)

    return {"flashinfer, joint, k and p a row": joint, "flashinfer, k then p, a row": top_k_first,
            "flashinfer, k=50 for all, p=.95": one_k, "flashinfer, top-k of f16 alone": only_top_k,
            "flashinfer cake, k=50 for all, p=.95": cake_from_logits,
            "flashinfer cake, the same, softmax ready": cake_alone, "flashinfer, p=.95": top_p}


def time_chip(kernels, clock):
    """What the planner and the predictions assume of the chip."""
    for cluster in (1, 2, 4, 8):
        for per_multiprocessor, shared in ((2, 100 << 10), (1, 200 << 10)):
            found = ctypes.c_int()
            code = kernels.library.floor_clusters(cluster, shared, ctypes.byref(found))
            emit(way=f"chip: clusters of {cluster} at once, {per_multiprocessor} blocks a multiprocessor", rows=0,
                 vocab_size=0, us=found.value, code=code, unit="clusters")
        us = clock.microseconds(lambda: kernels("floor_empty", ctypes.c_uint(256), ctypes.c_uint(cluster), ctypes.c_uint(0)))
        emit(way=f"chip: empty launch of 256 blocks in clusters of {cluster}", rows=0, vocab_size=0, us=us)
        for kind, name in enumerate(("of the block", "of the cluster", "of the cluster, relaxed", "by a counter")):
            counter, memory = (torch.zeros(n, dtype=torch.int32, device="cuda") for n in (1, 4096))
            clocks = torch.zeros(1, dtype=torch.int64, device="cuda")
            kernels("floor_barriers", ctypes.c_int(kind), ctypes.c_uint(cluster), memory, counter, clocks)
            emit(way=f"chip: barrier {name}, {cluster} blocks", rows=0, vocab_size=0, us=clocks.item(), unit="clocks")


def more_torch_ways(logits):
    def temperature():
        noise = torch.empty(logits.shape, device="cuda").exponential_()
        return ((logits.float() / TEMPERATURE).softmax(-1) / noise).argmax(-1)

    return {"torch, temperature": temperature, "torch, greedy": lambda: logits.argmax(-1)}


def vllm_ways(path, logits, k, p):
    """vLLM's own kernel, from the one file that was carried, without vLLM around it."""
    import triton
    import triton.language

    utils = types.ModuleType("vllm.triton_utils")
    utils.triton, utils.tl = triton, triton.language
    for name in ("vllm", "vllm.utils", "vllm.utils.platform_utils"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["vllm.triton_utils"] = utils
    sys.modules["vllm.utils.platform_utils"].num_compute_units = lambda *_: torch.cuda.get_device_properties(0).multi_processor_count
    spec = importlib.util.spec_from_file_location("vllm_triton", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call():
        scaled = module.apply_top_k_top_p_triton(logits.float() / TEMPERATURE, k, p)
        noise = torch.empty_like(scaled).exponential_()
        return (scaled.softmax(-1) / noise).argmax(-1)

    return {"vllm, triton": call}


def time_rows(kernels, clock, path, rows):
    logits = logits_of(torch, path, rows, VOCAB)
    k, p = parameter_tensors(torch, rows)
    size = ctypes.c_size_t(logits.numel() * 2)
    blocks = ctypes.c_uint(torch.cuda.get_device_properties(0).multi_processor_count * 4)
    sink = torch.zeros(4, dtype=torch.int32, device="cuda")

    def floor():
        kernels("floor_read", logits, size, sink, blocks)

    time_both(clock, "floor: one read", rows, floor)
    clock.dirty = True
    time_both(clock, "floor: one read, the cache full of writes", rows, floor)
    clock.dirty = False
    ways = flashinfer_ways(kernels, logits, k, p) | torch_ways(torch, logits, k, p) | more_torch_ways(logits)
    carried = Path(__file__).with_name("vllm_topk_topp_triton.py")
    if carried.exists():
        try:
            ways |= vllm_ways(carried, logits, k, p)
        except Exception as error:
            say("vllm is left out", error)
    for way, call in ways.items():
        time_both(clock, way, rows, call)


def time_logitd(binary, path):
    command = [binary, "bench", "--device", "cuda", "--json", "--vocab-size", str(VOCAB), "--passes", str(PASSES),
               "--batch", ",".join(map(str, BATCHES)), "--case", "top_k_top_p", "--case", "top_p", "--case", "greedy"]
    done = subprocess.run(command + (["--logits", path] if path else []), capture_output=True, text=True)
    print(done.stderr, file=sys.stderr)
    for line in map(json.loads, done.stdout.splitlines()):
        emit(way=f"logitd, {line['case']}", rows=line["rows"], vocab_size=line["vocab_size"], us=line["kernel_us"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True)
    parser.add_argument("--logitd", required=True)
    parser.add_argument("--logits")
    arguments = parser.parse_args()
    kernels = Kernels(arguments.library)
    clock = Clock(torch, PASSES)
    try:
        time_chip(kernels, clock)
    except Exception as error:
        say("the chip's own times are left out", error)
    half = clock.large.numel() // 2
    copy = clock.microseconds(lambda: clock.large[:half].copy_(clock.large[half:]))
    emit(way="copy of 128 MiB, read and written", rows=0, vocab_size=0, us=copy, gb_per_s=2 * (128 << 20) / copy / 1e3)
    for rows in BATCHES:
        time_rows(kernels, clock, arguments.logits, rows)
    time_logitd(arguments.logitd, arguments.logits)


main()
