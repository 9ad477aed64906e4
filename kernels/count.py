"""Counts the instructions of the kernels' passes over a row, from what the CUDA compiler made of them.

    nvcc --std=c++17 -O3 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true -arch=sm_90 -cubin \
        -o sample.cubin kernels/sample.cu
    nvdisasm -c sample.cubin > sample.sass
    python3 kernels/count.py sample.sass

A pass is an innermost loop over a row's tiles; its way is the longest one that avoids what only the row's two
ends, divergent warps or rows with -inf need. The rows are f16.
"""

import re
import sys

KERNEL = "logitd_sample_cluster"

# A pass: what its loop has and has not, the instructions to go through as often as possible, and those to
# avoid. The first loop that fits is taken.
PASSES = [
    ("scan", "REDUX.MAX", "ATOM", "LD.E.128|REDUX", "STS"),
    ("scan, staged", "REDUX.MAX", "ATOM", "LD.E.128|REDUX|STS.128", "-"),
    ("tile masses, all tokens", "FFMA.*REDUX.SUM", "ATOM|SHFL", "LD.E.128|FFMA|REDUX", "FSEL"),
    ("tile masses, all tokens, staged", "FFMA.*REDUX.SUM", "ATOM|SHFL", "LDS.128|FFMA|REDUX", "FSEL|LD.E"),
    ("tile masses, a cut", "FFMA.*REDUX.SUM", "ATOM|SHFL", "LD.E.128|FFMA|REDUX|FSEL", "-"),
    ("list, a tile with none", "ATOMG.*SHFL|SHFL.*ATOMG", "FFMA", "LD.E.128|SHFL|ATOMG", "STG|FSEL"),
    ("bins, by mass", "ATOMS.*FFMA|FFMA.*ATOMS", "REDUX", "LD.E.128|FFMA|ATOMS", "FSEL"),
    ("bins, by count", "ATOMS.*FFMA|FFMA.*ATOMS", "REDUX", "LD.E.128|ATOMS.POPC", "FSEL|FFMA"),
]
ENDS = r"LD\.E\.U16|BRA\.DIV"


def read(path):
    """The instructions of the kernel, and where its labels are."""
    text = open(path).read()
    begin = text.index(f".text.{KERNEL}:")
    end = text.find(".section", begin)
    code, labels = [], {}
    for line in text[begin : end if end > 0 else None].splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            code.append(instruction[1])
    return code, labels


def target(instruction, labels):
    """Where a branch goes, if it is one that these ways may take."""
    branch = re.search(r"\bBRA\b(?!\.DIV).*`\((\.L_x_\d+)\)", instruction)
    return labels.get(branch[1]) if branch else None


def loops(code, labels):
    """The innermost loops, as ranges of instructions."""
    ranges = [(labels_at, i) for i, text in enumerate(code) if (labels_at := target(text, labels)) is not None and labels_at <= i]
    return [(a, b) for a, b in ranges if not any((c, d) != (a, b) and a <= c and d <= b for c, d in ranges)]


def way(code, labels, begin, end, wanted, avoided):
    """The instructions of one turn: as many of the wanted as there are, none of the avoided, else the fewest."""
    best = {end: (1, [end])}
    for at in range(end - 1, begin - 1, -1):
        text = code[at]
        if re.search(ENDS, text) and "BRA.DIV" not in text or (avoided != "-" and re.search(avoided, text)):
            continue
        to = target(text, labels)
        following = [] if to is not None and not text.startswith("@") else [at + 1]
        if to is not None and at < to <= end:
            following.append(to)
        ways = [best[n] for n in following if n in best]
        if ways:
            score, rest = max(ways, key=lambda found: found[0])
            best[at] = (score + (10_000 if re.search(wanted, text) else 0) - 1, [at] + rest)
    return best.get(begin, (0, None))[1]


def main():
    code, labels = read(sys.argv[1])
    inner = loops(code, labels)
    for name, has, has_not, wanted, avoided in PASSES:
        for begin, end in inner:
            body = " ".join(code[begin : end + 1])
            if "HADD2.F32" not in body or not re.search(has, body) or re.search(has_not, body):
                continue
            turn = way(code, labels, begin, end, wanted, avoided)
            if not turn:
                continue
            texts = [code[at] for at in turn]
            tokens = sum("HADD2.F32" in text for text in texts)  # each widens one
            kinds = {}
            for text in texts:
                kind = re.sub(r"^@!?U?P\w+ ", "", text).split()[0].split(".")[0]
                kinds[kind] = kinds.get(kind, 0) + 1
            most = ", ".join(f"{k} {n}" for k, n in sorted(kinds.items(), key=lambda kv: -kv[1])[:6])
            print(f"{name:31} {len(turn) / tokens:5.1f} a token  ({len(turn)} for {tokens}: {most})")
            break
        else:
            print(f"{name:31} not found")


main()
