"""What named sets come to over the positions that the program carries, in plain doubles: the expected means of
`positions.rs`. Nothing of logitd is used but the file format. Prints `positions.tsv`:

    python3 tests/sampler/positions.py > tests/sampler/positions.tsv
"""

import json
import math
import pathlib
import struct
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MAGIC = b"logitd digests 1\n"
TAIL_SHARE = 1e-4
SETS = [
    (1.0, 0, 1.0, 0.0),
    (0.8, 40, 0.95, 0.05),
    (0.8, 40, 0.95, 0.0),
    (0.7, 20, 0.8, 0.0),
    (1.05, 0, 0.98, 0.0),
    (1.1, 1000, 0.95, 0.0),
    (1.1, 1000, 0.95, 0.001),
    (1.0, 50, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.5, 0, 1.0, 0.05),
    (0.3, 0, 1.0, 0.0),
    (0.0, 0, 1.0, 0.0),
]
METRICS = ["nll", "brier", "coverage", "tail", "entropy", "surprise", "mean_kept"]


def numbers(packed: bytes):
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def f16(key: int) -> float:
    """The value at a place in the order of all values, of which the negative ones come first."""
    bits = key - 0x8000 if key >= 0x8000 else 0xFFFF - key
    return struct.unpack("<e", struct.pack("<H", bits))[0]


def read(path: pathlib.Path) -> tuple[int, list[tuple[int, list[tuple[float, int]]]]]:
    """The vocabulary, and of each row the reference's rank and the distinct values with their counts."""
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    at = len(MAGIC)
    (length,) = struct.unpack_from("<I", data, at)
    about = json.loads(data[at + 4:at + 4 + length])
    assert about["dtype"] == "f16"
    at += 4 + length
    rows = []
    for _ in range(about["rows"]):
        (length,) = struct.unpack_from("<I", data, at)
        status, _group, rank, count, *rest = numbers(zlib.decompress(data[at + 4:at + 4 + length]))
        assert status == 0
        at += 4 + length
        key, groups = 0xFFFF, []
        for gap, many in zip(rest[:count], rest[count:], strict=True):
            key -= gap
            groups.append((f16(key), many))
        rows.append((rank, groups))
    assert at == len(data)
    return about["vocab_size"], rows


def evaluate(rank: int, groups: list[tuple[float, int]], params: tuple, miss: float) -> list[float]:
    temperature, top_k, top_p, min_p = params
    greatest = groups[0][0]
    whole = sum(count * math.exp(x - greatest) for x, count in groups)
    logprobs = [x - greatest - math.log(whole) for x, _ in groups]
    if temperature == 0:
        masses, kept = [1.0] + [0.0] * (len(groups) - 1), 1
    else:
        masses = [math.exp((x - greatest) / temperature) for x, _ in groups]
        kept = keep(masses, groups, params)
    left, total, reference = kept, 0.0, None
    parts = []
    before = 0
    for (_, count), mass, logprob in zip(groups, masses, logprobs):
        own = min(count, left)
        if own == 0:
            break
        parts.append((own, mass, logprob))
        if before <= rank < before + own:
            reference = mass
        total += own * mass
        before += count
        left -= own
    p = [(own, mass / total, logprob) for own, mass, logprob in parts]
    hit = reference is not None
    of_reference = reference / total if hit else 0.0
    return [
        float(hit),
        -math.log(of_reference) if hit else miss,
        1.0 - 2.0 * of_reference + sum(own * q * q for own, q, _ in p),
        float(hit),
        sum(own * q for own, q, logprob in p if math.exp(logprob) < TAIL_SHARE),
        -sum(own * q * math.log(q) for own, q, _ in p if q > 0.0),
        -sum(own * q * logprob for own, q, logprob in p),
        float(kept),
    ]


def keep(masses: list[float], groups: list[tuple[float, int]], params: tuple) -> int:
    """How many first tokens all cuts keep."""
    temperature, top_k, top_p, min_p = params
    n_all = sum(count for _, count in groups)
    n_k = min(top_k or n_all, n_all)
    n_p = n_all
    if top_p < 1.0:
        left, within = n_k, 0.0
        for (_, count), mass in zip(groups, masses):
            own = min(count, left)
            within += own * mass
            left -= own
        target, cumulative, n_p = top_p * within, 0.0, 0
        for (_, count), mass in zip(groups, masses):
            if cumulative + count * mass >= target:
                n_p += max(1, math.ceil((target - cumulative) / mass))
                break
            cumulative += count * mass
            n_p += count
    n_m = n_all
    if min_p > 0.0:
        least = math.log(min_p) * temperature
        n_m = sum(count for x, count in groups if x - groups[0][0] >= least)
    return min(n_k, n_p, n_m)


def main() -> None:
    vocab_size, rows = read(ROOT / "assets" / "positions.digests")
    miss = math.log(vocab_size)
    print("\t".join(["temperature", "top_k", "top_p", "min_p", "rows", "hits", *METRICS]))
    for params in SETS:
        found = [evaluate(rank, groups, params, miss) for rank, groups in rows]
        hits, *sums = (math.fsum(column) for column in zip(*found))
        means = [f"{total / len(rows):.9f}" for total in sums]
        print("\t".join([*map(str, params), str(len(rows)), str(int(hits)), *means]))


if __name__ == "__main__":
    main()
