#!/usr/bin/env python3
"""Times FlashInfer, vLLM and PyTorch beside logitd, over the same logits and parameters. README.md says more."""

import argparse
import importlib
import json
import subprocess
import sys

from common import TEMPERATURE, Clock, logits_of, parameter_tensors, torch_ways

VOCAB_SIZES = (128_256, 262_144)
BATCHES = (1, 8, 32, 64, 256, 512)
# FlashInfer's top-k first is faster where all rows have one k, which must be an int: a tensor, whatever is in it, is a
# k for each row. p may be either.
ONE_K = 50


def find(name: str):
    """A module and its version, or why it is not there."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken installation fails in its own way
        return None, f"{name} is missing: {type(error).__name__}: {error}".splitlines()[0]
    return module, f"{name} {getattr(module, '__version__', 'of unknown version')}"


def flashinfer_ways(flashinfer, torch, logits, k, p):
    sampling = flashinfer.sampling

    def scaled():
        return logits.float() / TEMPERATURE

    def joint():
        probabilities = scaled().softmax(-1)
        return sampling.top_k_top_p_sampling_from_probs(probabilities, k, p, filter_apply_order="joint")

    return {
        "flashinfer, joint": joint,
        "flashinfer, top-k first": lambda: sampling.top_k_top_p_sampling_from_logits(scaled(), k, p),
        f"flashinfer, top-k first, k={ONE_K} for all":
            lambda: sampling.top_k_top_p_sampling_from_logits(scaled(), ONE_K, p),
        f"flashinfer, top-k first, k={ONE_K} for all, of f16":
            lambda: sampling.top_k_top_p_sampling_from_logits(logits / TEMPERATURE, ONE_K, p),
    }


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
    clock = Clock(torch, arguments.passes)
    for vocab_size in arguments.vocab_size:
        for rows in arguments.batch:
            logits = logits_of(torch, arguments.logits, rows, vocab_size)
            k, p = parameter_tensors(torch, rows)
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


def logitd(arguments, emit) -> None:
    if not arguments.logitd:
        print("logitd is left out: --logitd names no binary", file=sys.stderr)
        return
    for vocab_size in arguments.vocab_size:
        command = [arguments.logitd, "bench", "--device", "cuda", "--json", "--case", "top_k_top_p",
                   "--passes", str(arguments.passes)]
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
            print("{way:48} {rows:>5} x {vocab_size:<8} {us:>10.1f} us   {device}".format(**measured), flush=True)

    logitd(arguments, emit)
    peers(arguments, emit)


if __name__ == "__main__":
    main()
