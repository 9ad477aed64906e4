"""Times other people's samplers on the rows that `logitd bench` times, one thread, out of cache.

    pip install numpy torch transformers xgrammar llama-cpp-python     # what is missing is left out
    python benches/peers/cpu.py --logits ROWS.npy    # f16 [rows, vocab], the first 128,256 tokens of each

Prints one JSON object a line: the sampler, its version, the case, and the median of some passes in
microseconds a row. Every sampler starts from the same f16 rows and ends with a token. Each is used in
the fastest way that its users use it: numpy sorts, torch takes `topk` and sorts where that is not enough,
transformers runs the processors of `generate`, llama.cpp its chain of samplers over an array of candidates,
which numpy fills. `samplers.py` has them.

`--logitd PATH` times the same cases with that binary in the same run, case by case.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

from samplers import ALL, Case, NoWay

ROWS, VOCAB_SIZE, PASSES = 64, 128_256, 3
CASES = [
    Case("greedy", temperature=0.0),
    Case("top_k_top_p", top_k=50, top_p=0.95),
    Case("top_p", top_p=0.95),
    Case("temperature"),
    Case("top_p_t10", top_p=0.95, temperature=10.0),
    Case("constant_top_p", top_p=0.95, values="constant"),
    Case("normal_top_p", top_p=0.95, temperature=1.0, values="normal"),
    Case("bitmask", top_k=50, top_p=0.95, mask=True),
    Case("adjusted", top_k=50, top_p=0.95, mask=True, biases=64),
    Case("race_top_k", top_k=50, top_p=0.95, race=True),
    Case("race", race=True),
    Case("logprobs_top20", top_p=0.95, logprobs=20),
]


def rows_of(values, logits):
    if values == "constant":
        return np.full((ROWS, VOCAB_SIZE), 3, np.float16)
    if values == "normal":
        return np.random.default_rng(1).standard_normal((ROWS, VOCAB_SIZE), np.float32).astype(np.float16)
    real = np.load(logits, mmap_mode="r")[:, :VOCAB_SIZE]
    return np.concatenate([real] * (ROWS // len(real) + 1))[:ROWS].copy()


def check(sample, row, case):
    """The greatest logit, and tokens of the nucleus: a sampler that is used wrongly is not timed."""
    assert row[sample(row, Case("", temperature=0.0))] == row.max()
    x = row.astype(np.float64)
    if case.mask:
        bits = np.unpackbits(case.bitmask(len(row)).view(np.uint8), bitorder="little")
        x[bits[: len(row)] == 0] = -np.inf
    for token, bias in case.bias(len(row)).items() if case.biases else ():
        x[token] += bias
    x /= case.temperature or 1
    p = np.exp(x - x.max())
    order = np.argsort(-p, kind="stable")[: case.top_k or None]
    share = np.cumsum(p[order]) / p[order].sum()
    kept = order[: int(np.searchsorted(share, case.top_p)) + 2]
    for _ in range(3):
        token = sample(row, case)
        if case.logprobs:
            token, logprob, rank, top, _ = token
            raw = row.astype(np.float64)
            expected = raw[token] - raw.max() - np.log(np.exp(raw - raw.max()).sum())
            assert abs(logprob - expected) < 1e-2, (logprob, expected)
            assert rank >= 1 and len(top) == case.logprobs and raw[int(top[0])] == raw.max()
        assert p[token] >= p[kept[-1]] * (1 - 1e-3), (token, p[token], p[kept[-1]])


def print_time(case, peer, version, microseconds, rows=ROWS):
    line = dict(case=case.name, peer=peer, version=version, threads=1, rows=rows, vocab_size=VOCAB_SIZE)
    print(json.dumps(line | dict(cached=False, us_per_row=round(microseconds, 1))), flush=True)


def time_peer(sample, rows, case):
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for row in rows:
            sample(row, case)
        times.append((time.perf_counter() - start) / len(rows) * 1e6)
    return statistics.median(times)


def print_logitd(binary, logits, case):
    """The bench of the binary, on its own number of rows out of cache."""
    version = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    command = [binary, "bench", "--json", "--threads", "1", "--case", case.name, "--logits", logits]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in map(json.loads, out.splitlines()):
        if line["vocab_size"] == VOCAB_SIZE and not line["cached"]:
            return print_time(case, "logitd", version.split()[1], line["us_per_row"], line["rows"])
    raise RuntimeError(f"{binary} has not timed {case.name}: {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logits", required=True, help="f16 rows, .npy")
    parser.add_argument("--logitd", help="the binary of logitd, timed beside the others")
    parser.add_argument("--peer", action="append", choices=ALL, help="only these")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only these")
    args = parser.parse_args()
    peers = []
    for name, make in ALL.items():
        if args.peer and name not in args.peer:
            continue
        try:
            peers.append(make())
        except (ImportError, OSError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr, flush=True)
    rows_by_values = {values: rows_of(values, args.logits) for values in ("real", "constant", "normal")}
    for case in CASES:
        if args.case and case.name not in args.case:
            continue
        rows = rows_by_values[case.values]
        if args.logitd:
            print_logitd(args.logitd, args.logits, case)
        for peer, version, sample in peers:
            try:
                check(sample, rows[0], case)
            except NoWay as why:
                print(f"left out: {peer}, {case.name}: {why}", file=sys.stderr, flush=True)
                continue
            print_time(case, peer, version, time_peer(sample, rows, case))


if __name__ == "__main__":
    main()
