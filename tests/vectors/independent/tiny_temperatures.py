#!/usr/bin/env python3
"""Known answers at temperatures below 1e-4, from the definition alone, with exact fractions.

    python3 tests/vectors/independent/tiny_temperatures.py            writes tiny_mass.json and tiny_rows.json
    python3 tests/vectors/independent/tiny_temperatures.py --check    says whether they are what it would write

Every operation of binary32 is done on fractions and rounded once, to the nearest, ties to even. Nothing is
shared with the implementations under test, and nothing but the standard library is used.
"""

import json
import math
import sys
from fractions import Fraction
from pathlib import Path

UNIT = 1 << 40
LOG2_E = float.fromhex("0x1.71547652b82fep+0")
LN_2 = float.fromhex("0x1.62e42fefa39efp-1")
ROUND = Fraction(3 << 22)  # 0x1.8p23
MIN_EXPONENT = -149
MAX = Fraction((1 << 24) - 1) * 2**104
INF = math.inf


def nearest(x, digits, lowest, largest):
    """x rounded to so many binary digits, none below 2^lowest; infinite beyond the largest."""
    if x == 0:
        return Fraction(0)
    magnitude = abs(x)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - digits + 1, lowest)
    scaled, rest = divmod(magnitude, unit)
    if rest * 2 > unit or (rest * 2 == unit and scaled % 2 == 1):
        scaled += 1
    value = scaled * unit
    if value > largest:
        return INF if x > 0 else -INF
    return value if x > 0 else -value


def f32(x):
    return x if x in (INF, -INF) else nearest(x, 24, MIN_EXPONENT, MAX)


def fma(a, b, c):
    return f32(a * b + c)


def bits_of(x):
    """The bit pattern of an f32 given as a fraction."""
    if x == INF:
        return 0x7F80_0000
    sign = 0x8000_0000 if x < 0 else 0
    magnitude = abs(x)
    if magnitude == 0:
        return sign
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    if exponent < -126:
        return sign | int(magnitude / Fraction(2) ** MIN_EXPONENT)
    mantissa = int(magnitude / Fraction(2) ** (exponent - 23))
    return sign | (exponent + 127) << 23 | mantissa & 0x7F_FFFF


def value_of(bits, exponent_bits, mantissa_bits):
    """The value of a bit pattern of such a format."""
    sign = -1 if bits >> (exponent_bits + mantissa_bits) else 1
    exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1)
    mantissa = bits & ((1 << mantissa_bits) - 1)
    bias = (1 << exponent_bits - 1) - 1
    if exponent == (1 << exponent_bits) - 1:
        assert mantissa == 0, "no NaN here"
        return sign * INF
    if exponent == 0:
        return sign * Fraction(mantissa) * Fraction(2) ** (1 - bias - mantissa_bits)
    return sign * Fraction(mantissa | 1 << mantissa_bits) * Fraction(2) ** (exponent - bias - mantissa_bits)


FORMATS = {"f16": (5, 10), "bf16": (8, 7), "f32": (8, 23)}
C = [value_of(bits, 8, 23) for bits in (0x3F317218, 0x3E75FDEE, 0x3D635774, 0x3C1D96A6, 0x3AAF9F2A, 0x3920FDDE)]


def scale(temperature):
    # A double of Python divided by a double is rounded once to a double, as the definition says.
    c = f32(Fraction(LOG2_E / float(temperature)))
    return c, f32(Fraction(-62) / c)


def subtract(x, largest):
    return -INF if x == -INF else f32(x - largest)


def mass(x, largest, c, dmin):
    d = max(subtract(x, largest), dmin)
    t = fma(d, c, ROUND)
    n = f32(t - ROUND)
    f = fma(d, c, -n)
    p = C[5]
    for coefficient in (*C[4::-1], Fraction(1)):
        p = fma(p, f, coefficient)
    bits = bits_of(p)
    exponent = (bits >> 23) - 127 + int(n)
    return (bits & 0x7F_FFFF | 0x80_0000) << 17 >> -exponent


def philox(counter, key):
    counter, key = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def sample(x, temperature, k, p, minp, seed, position):
    """The result of draw 0 of a row that has a token."""
    order = sorted((i for i in range(len(x)) if x[i] > -INF), key=lambda i: (-x[i], i))
    largest = x[order[0]]
    c, dmin = scale(temperature)
    masses = [mass(x[i], largest, c, dmin) for i in order]
    kept = min(k, len(order)) if k else len(order)
    cuts = [kept]
    if p < 1:
        fraction = int(p * 2**64)
        target = max(1, -(-fraction * sum(masses[:kept]) >> 64))
        reached, n = 0, 0
        while reached < target:
            reached, n = reached + masses[n], n + 1
        cuts.append(n)
    if minp > 0:
        least = f32(Fraction(math.log(float(minp)) * float(temperature)))
        cuts.append(sum(subtract(x[i], largest) >= least for i in order))
    kept = min(cuts)
    by_id = sorted(zip(order[:kept], masses[:kept]))
    total = sum(m for _, m in by_id)
    words = philox((position & 0xFFFFFFFF, position >> 32, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    target = (words[0] | words[1] << 32) * total >> 64
    for token, m in by_id:
        target -= m
        if target < 0:
            break
    d = subtract(x[token], largest)
    logprob = float(d) * float(c) * LN_2 - math.log(total / UNIT)
    return {
        "status": "OK",
        "token": token,
        "kept": kept,
        "kept_mass": total,
        "logprob_bits": f"{bits_of(f32(Fraction(logprob))):08x}",
    }


def decimal(x):
    """The shortest decimal that rounds to this f32."""
    if x in (INF, -INF):
        return str(x)
    if x == 0:
        return "0.0"
    return next(text for n in range(1, 10) if f32(Fraction(text := f"{float(x):.{n}g}")) == x)


TEMPERATURES = ["1e-30", "1.0000001e-30", "3.3e-29", "1e-20", "1e-10", "1e-7", "1e-6", "9.999e-5", "1e-4"]


def mass_cases():
    for text in TEMPERATURES:
        temperature = f32(Fraction(text))
        c, dmin = scale(temperature)
        units = ["0", "1e-7", "0.25", "0.4999", "0.5", "0.5001", "1", "7.3", "16", "23.5", "31.999", "39.999", "40.5"]
        distances = [f32(-Fraction(unit) * Fraction(LN_2) * temperature) for unit in units]
        fixed = [dmin, -Fraction(2) ** MIN_EXPONENT, -Fraction(2) ** -126, Fraction(-1, 1 << 24), Fraction(-1), -MAX]
        for distance in [*distances, *fixed, -INF]:
            result = mass(distance, Fraction(0), c, dmin)
            yield {"T": float(decimal(temperature)), "x_minus_max": decimal(distance), "mass": result}


def rows():
    """Rows by name, dtype and bit patterns."""
    near = [f32(-Fraction(unit) * Fraction(LN_2) * f32(Fraction("1e-30"))) for unit in ("0.5", "1", "1.5", "0", "20")]
    yield "gaps of the temperature's size", "f32", [bits_of(x) for x in near]
    yield "subnormals", "f32", [3, 1, 2, 0, 0x80000000, 0x80000001, 0x80000002]
    yield "ends of the range", "f32", [0x7F7FFFFF, 0, 0xFF7FFFFF, 0x7F7FFFFF, 0xFF800000]
    yield "one unit in the last place", "f32", [0x3F800000, 0x3F800001, 0x3F7FFFFF, 0x3F800001]
    yield "subnormals", "f16", [3, 1, 2, 3, 0x8000, 0x8001]
    yield "ties of the maximum", "f16", [0x3C00, 0x4200, 0x4000, 0x4200, 0x4200, 0x0000, 0xFC00]
    yield "one unit in the last place", "f16", [0x41FF, 0x4200, 0x41FE, 0x4200]
    yield "ends of the range", "f16", [0x7BFF, 0, 0xFBFF, 0x7BFF]
    yield "constant", "f16", [0xC740] * 33
    yield "subnormals", "bf16", [3, 1, 2, 0x8000, 3]
    yield "ties of the maximum", "bf16", [0x3F80, 0x4040, 0x4000, 0x4040, 0xFF80]
    yield "ends of the range", "bf16", [0x7F7F, 0, 0xFF7F, 0x7F7F]


def row_cases():
    cuts = [{}, {"k": 2}, {"p": 0.5}, {"minp": 0.5}, {"k": 3, "p": 0.9, "minp": 1e-6}]
    for number, (name, dtype, patterns) in enumerate(rows()):
        x = [value_of(bits, *FORMATS[dtype]) for bits in patterns]
        for i, text in enumerate(["1e-30", "1e-20", "1e-7", "1e-6", "9.999e-5"]):
            temperature = f32(Fraction(text))
            cut = cuts[(i + number) % len(cuts)]
            seed, position = (12345, 1 << 40 | i) if i % 2 else ((1 << 53) + 1, number)
            p, minp = (f32(Fraction(str(cut.get(name, default)))) for name, default in (("p", 1), ("minp", 0)))
            expect = sample(x, temperature, cut.get("k", 0), p, minp, seed, position)
            digits = 8 if dtype == "f32" else 4
            yield {
                "name": f"{name}, {text}",
                "dtype": dtype,
                "bits": [f"{bits:0{digits}x}" for bits in patterns],
                "params": {"T": float(text), **cut},
                "seed": seed,
                "position": position,
                "expect": expect,
            }


def main():
    folder = Path(__file__).parent
    stale = []
    for name, cases in (("tiny_mass.json", mass_cases()), ("tiny_rows.json", row_cases())):
        lines = ",\n".join(json.dumps(case) for case in cases)
        text = f'{{"cases": [\n{lines}\n]}}\n'
        if "--check" not in sys.argv:
            (folder / name).write_text(text)
        elif (folder / name).read_text() != text:
            stale.append(name)
    if stale:
        sys.exit(f"{', '.join(stale)}: not what this script writes; run it without --check")


if __name__ == "__main__":
    # The generator's published vector.
    assert philox((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    main()
