"""The known answers of `tests/vectors` as calls: rows, keywords and what comes out."""

import gzip
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import logitd

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"
TYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32}
# Rows of the recording that `assets/` has, in its order.
CARRIED = [4, 1, 53, 24, 56, 60, 49, 44]
# Parameters as files of arithmetic version 1 have them.
SHORT = {"T": "temperature", "k": "top_k", "p": "top_p", "minp": "min_p"}


@dataclass
class Case:
    """A row, keywords for it, and what is expected; `logprob_within` is in units in the last place."""

    name: str
    row: np.ndarray
    controls: dict[str, Any]
    expect: dict[str, Any]
    logprob_within: int = 0


def read(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / name).read_text())


def row(stored: dict[str, Any]) -> np.ndarray:
    """A row that is stored as bit patterns, in one text or a list of them."""
    size = np.dtype(TYPES[stored["dtype"]]).itemsize
    bits = stored["bits"]
    digits = bits.replace(" ", "") if isinstance(bits, str) else "".join(bits)
    # The digits are from the most significant on.
    return np.frombuffer(bytes.fromhex(digits), f">u{size}").astype(f"<u{size}").view(TYPES[stored["dtype"]])


def carried() -> np.ndarray:
    """The real rows that the repository has: in each, all upper bytes stand before all lower ones."""
    packed = np.frombuffer(gzip.decompress((ROOT / "assets" / "rows.gz").read_bytes()), np.uint8)
    upper, lower = packed.reshape(-1, 2, 262_144).transpose(1, 0, 2)
    return np.stack([lower, upper], axis=-1).reshape(len(lower), -1).view("<f2")


def recording() -> dict[int, np.ndarray]:
    """Rows of the recording of 64: those that are carried, or all where the file is beside the project."""
    path = ROOT.parent / "shared" / "logits" / "gemma3_270m_64x262144.f16.npy"
    if not path.exists():
        return dict(zip(CARRIED, carried(), strict=True))
    return dict(enumerate(np.load(path, mmap_mode="r")))


def carried_small_rows() -> list[Case]:
    file = read("rows.json")
    rows = [(stored["name"], row(stored)) for stored in file["rows"]]
    return [Case(f"{rows[c['row']][0]}, {c['params']}", rows[c["row"]][1], c["params"], c["result"]) for c in file["cases"]]


def carried_real_rows() -> list[Case]:
    rows = carried()
    return [Case(f"{c['row']}, {c['params']}", rows[c["row"]], c["params"], c["result"]) for c in read("real_rows.json")["cases"]]


def version_1(name: str) -> list[Case]:
    """Files with short names, and the seed and the position beside them."""
    found, real = [], recording()
    for case in read(f"independent/{name}.json")["cases"]:
        if "row" in case and case["row"] not in real:
            continue
        logits = real[case["row"]] if "row" in case else row(case)
        params = {SHORT[key]: value for key, value in case["params"].items()}
        params |= {key: case[key] for key in ("seed", "position")}
        found.append(Case(f"{case.get('name', case.get('row'))}, {params}", logits, params, case["expect"], 1))
    return found


def version_2(name: str) -> list[Case]:
    """Files with rows by name, and the API's names."""
    file = read(f"independent/{name}.json")
    rows: dict[Any, np.ndarray] = {name: row(stored) for name, stored in file["rows"].items()}
    rows |= recording()
    found = []
    for case in file["cases"] + file.get("real", []):
        if case.get("kind", "sample") == "sample" and case["row"] in rows:
            logits = rows[case["row"]]
            params = keywords(case["params"], len(logits))
            found.append(Case(f"{case.get('name')}, {params}"[:200], logits, params, case["expect"], 1))
    return found


def keywords(params: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """What a file writes in its own way, as Python has it."""
    params = dict(params)
    if params.get("logprobs"):
        params["logprobs"] = logitd.Logprobs(**params["logprobs"])
    if "allowed_bitmask" in params:
        words = [int(word, 16) for word in params["allowed_bitmask"]]
        params["allowed_bitmask"] = np.array(words, np.uint32)
    if "allowed_mod" in params:
        n, rests = params.pop("allowed_mod")
        allowed = np.isin(np.arange(vocab_size) % n, rests)
        packed = np.packbits(np.pad(allowed, (0, -vocab_size % 32)), bitorder="little")
        params["allowed_bitmask"] = packed.view(np.int32)
    if "logit_bias" in params:
        params["logit_bias"] = [(token, float(bias)) for token, bias in params["logit_bias"]]
    return params


@dataclass
class Drafted:
    """Rows of a sequence, its drafts, keywords for them, and what is expected."""

    name: str
    rows: np.ndarray
    drafts: list[int]
    controls: dict[str, Any]
    expect: dict[str, Any]


def drafted() -> list[Drafted]:
    file = read("independent/drafts.json")
    rows = {name: row(stored) for name, stored in file["rows"].items()}
    found = []
    for case in file["cases"]:
        x = together([rows[name] for name in case["rows"]])
        controls = keywords(case["params"], x.shape[1])
        if case["kind"] == "tree":
            drafts, controls["parents"] = case["tokens"][1:], case["parents"][1:]
        else:
            drafts, controls["mode"] = case["drafts"], case["mode"].lower()
            if case["draft_distributions"]:
                controls["distributions"] = [distribution(one, rows) for one in case["draft_distributions"]]
        found.append(Drafted(f"{case['name']}, {controls}"[:200], x, drafts, controls, case["expect"]))
    return found


def together(rows: list[np.ndarray]) -> np.ndarray:
    """Rows as those of one call. Where they differ, all are widened, and shorter ones have tokens of -inf behind theirs: neither changes a row."""
    if len({(row.dtype, len(row)) for row in rows}) == 1:
        return np.stack(rows)
    longest = max(len(row) for row in rows)
    padded = [np.pad(row.astype(np.float32), (0, longest - len(row)), constant_values=-np.inf) for row in rows]
    return np.stack(padded)


def distribution(stored: dict[str, Any] | None, rows: dict[str, np.ndarray]) -> Any:
    """What a draft was drawn from, as Python has it."""
    if stored is None:
        return None
    if "probs_bits" in stored:
        return np.array([int(pattern, 16) for pattern in stored["probs_bits"]], np.uint32).view(np.float32)
    if "weights" in stored:
        return dict(zip(stored["tokens"], stored["weights"], strict=True))
    drawn = rows[stored["row"]]
    return logitd.DraftLogits(drawn, **keywords(stored["params"], len(drawn)))


@dataclass
class Stepped:
    """Rows of beams, their scores, keywords for them, and what is expected."""

    name: str
    rows: np.ndarray
    scores: list[int]
    controls: dict[str, Any]
    expect: dict[str, Any]


def stepped() -> list[Stepped]:
    file = read("independent/beams.json")
    rows = {name: row(stored) for name, stored in file["rows"].items()}
    found = []
    for case in file["cases"]:
        x = together([rows[name] for name in case["rows"]])
        controls = {"beams": case["beams"], "eos_ids": case["eos"], "temperature": case["temperature"], "normaliser": case["normaliser"].lower()}
        each = [keywords(params, x.shape[1]) for params in case["row_params"] or []]
        names = {name for params in each for name in params}
        controls |= {name: [params.get(name) for params in each] for name in names}
        found.append(Stepped(case["name"], x, case["scores"], controls, case["expect"]))
    return found


def bits(values: np.ndarray) -> list[int]:
    """The patterns of float32 numbers."""
    found: list[int] = np.ascontiguousarray(values).view(np.uint32).ravel().tolist()
    return found
