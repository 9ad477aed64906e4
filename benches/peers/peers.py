#!/usr/bin/env python3
"""Times FlashInfer, vLLM and PyTorch beside logitd, over the same logits and parameters. README.md says more."""

import argparse
import importlib
import json
import statistics
import subprocess
import sys

VOCAB_SIZES = (128_256, 262_144)
BATCHES = (1, 8, 32, 64, 256, 512)
TEMPERATURE = 0.8


def parameters(row: int) -> tuple[int, float]:
    """top_k and top_p of a row, as `logitd bench --device cuda` gives them."""
    return 20 + row % 64, 0.8 + 0.01 * (row % 19)


def find(name: str):
    """A module and its version, or why it is not there."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken installation fails in its own way
        return None, f"{name} is missing: {type(error).__name__}: {error}".splitlines()[0]
    return module, f"{name} {getattr(module, '__version__', 'of unknown version')}"


class Cuda:
    """Times calls on the device's clock, the logits out of its L2 cache."""

    def __init__(self, torch, passes: int):
        self.torch, self.passes = torch, passes
        self.large = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def microseconds(self, call) -> float:
        torch, times = self.torch, []
        for number in range(self.passes + 3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.large.zero_()
            begin.record()
            call()
            end.record()
            end.synchronize()
            if number >= 3:  # the first ones warm up, and may compile
                times.append(begin.elapsed_time(end) * 1000)
        return statistics.median(times)


def torch_ways(torch, logits, k, p):
    """Sorted: the usual way of filtering. Narrowed: top-k first, which needs one largest k."""
    most = int(k.max())

    def filtered(values):
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        return probabilities.masked_fill(before >= p[:, None], 0)

    def by_sorting():
        values, ids = (logits.float() / TEMPERATURE).sort(-1, descending=True)
        rank = torch.arange(values.shape[-1], device=values.device)
        values = values.masked_fill(rank >= k[:, None], float("-inf"))
        return ids.gather(-1, torch.multinomial(filtered(values), 1))

    def by_narrowing():
        values, ids = (logits.float() / TEMPERATURE).topk(most, -1)
        rank = torch.arange(most, device=values.device)
        values = values.masked_fill(rank >= k[:, None], float("-inf"))
        return ids.gather(-1, torch.multinomial(filtered(values), 1))

    return {"torch, sorted": by_sorting, "torch, narrowed": by_narrowing}


def flashinfer_ways(flashinfer, torch, logits, k, p):
    def joint():
        probabilities = (logits.float() / TEMPERATURE).softmax(-1)
        return flashinfer.sampling.top_k_top_p_sampling_from_probs(probabilities, k, p, filter_apply_order="joint")

    def from_logits():
        scaled = logits.float() / TEMPERATURE
        return flashinfer.sampling.top_k_top_p_sampling_from_logits(scaled, k, p)

    return {"flashinfer, joint": joint, "flashinfer, top-k first": from_logits}


def vllm_ways(torch, logits, k, p):
    module = importlib.import_module("vllm.v1.sample.ops.topk_topp_sampler")

    def native():
        scaled = module.apply_top_k_top_p(logits.float() / TEMPERATURE, k, p)
        noise = torch.empty_like(scaled).exponential_()
        return scaled.softmax(-1).div_(noise).argmax(-1)

    return {"vllm": native}


def peers(arguments, emit) -> None:
    torch, said = find("torch")
    print(said, file=sys.stderr)
    if torch is None:
        return
    if not torch.cuda.is_available():
        print("torch has no CUDA device: FlashInfer, vLLM and torch are left out", file=sys.stderr)
        return
    flashinfer, said = find("flashinfer")
    print(said, file=sys.stderr)
    vllm, said = find("vllm")
    print(said, file=sys.stderr)
    name = torch.cuda.get_device_name(0)
    clock = Cuda(torch, arguments.passes)
    generator = torch.Generator(device="cuda").manual_seed(1)
    for vocab_size in arguments.vocab_size:
        for rows in arguments.batch:
            logits = rows_like_logitds(torch, arguments, generator, rows, vocab_size)
            k = torch.tensor([parameters(row)[0] for row in range(rows)], device="cuda", dtype=torch.int32)
            p = torch.tensor([parameters(row)[1] for row in range(rows)], device="cuda")
            ways = torch_ways(torch, logits, k, p)
            if flashinfer is not None:
                ways |= flashinfer_ways(flashinfer, torch, logits, k, p)
            if vllm is not None:
                try:
                    ways |= vllm_ways(torch, logits, k, p)
                except Exception as error:
                    print(f"vllm is left out: {type(error).__name__}: {error}", file=sys.stderr)
            for way, call in ways.items():
                try:
                    microseconds = clock.microseconds(call)
                except Exception as error:
                    print(f"{way} is left out: {type(error).__name__}: {error}", file=sys.stderr)
                    continue
                emit({"way": way, "device": name, "rows": rows, "vocab_size": vocab_size, "us": microseconds})


def rows_like_logitds(torch, arguments, generator, rows: int, vocab_size: int):
    """The rows of --logits, cut and repeated as logitd does it; without, rows from a normal distribution."""
    if not arguments.logits:
        values = torch.randn(rows, vocab_size, device="cuda", generator=generator)
        return (values * 3).half()
    import numpy

    array = numpy.load(arguments.logits, mmap_mode="r")
    distinct = [numpy.resize(array[row], vocab_size) for row in range(min(rows, len(array)))]
    return torch.from_numpy(numpy.stack([distinct[row % len(distinct)] for row in range(rows)])).cuda()


def logitd(arguments, emit) -> None:
    if not arguments.logitd:
        print("logitd is left out: --logitd names no binary", file=sys.stderr)
        return
    for vocab_size in arguments.vocab_size:
        command = [arguments.logitd, "bench", "--device", "cuda", "--json", "--passes", str(arguments.passes)]
        command += ["--vocab-size", str(vocab_size), "--batch", ",".join(map(str, arguments.batch))]
        if arguments.logits:
            command += ["--logits", arguments.logits]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"logitd is left out: {done.stderr.strip()}", file=sys.stderr)
            return
        for line in map(json.loads, done.stdout.splitlines()):
            if line["case"] == "top_k_top_p":
                emit({"way": "logitd", "device": line["name"], "rows": line["rows"], "vocab_size": vocab_size,
                      "us": line["kernel_us"]})


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logitd", metavar="BINARY", help="a logitd to run beside the others")
    parser.add_argument("--logits", metavar="FILE.npy", help="f16 rows for all of them [default: each its own]")
    parser.add_argument("--batch", metavar="N,..", type=numbers, default=list(BATCHES), help="rows")
    parser.add_argument("--vocab-size", metavar="N,..", type=numbers, default=list(VOCAB_SIZES), help="tokens a row")
    parser.add_argument("--passes", metavar="N", type=int, default=20, help="passes that a median is taken of")
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    arguments = parser.parse_args()

    def emit(measured: dict) -> None:
        if arguments.json:
            print(json.dumps(measured), flush=True)
        else:
            print("{way:24} {rows:>5} x {vocab_size:<8} {us:>10.1f} us   {device}".format(**measured), flush=True)

    logitd(arguments, emit)
    peers(arguments, emit)


if __name__ == "__main__":
    main()
