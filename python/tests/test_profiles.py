"""`profile` against the libraries that it is named after, on real rows: which tokens each keeps.

They are large, so these tests run where they are installed: `.ci/run python` with CI_LONG=1. Theirs are sums of a whole row in
single precision and ours are exact, so a border may lie elsewhere by that much, and nowhere else.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from known import recording
from libraries import LlamaCpp, Sglang, Transformers, Vllm

import logitd

LIBRARIES: dict[str, type[Any]] = {"hf": Transformers, "vllm": Vllm, "sglang": Sglang, "llamacpp": LlamaCpp}

# In which ways two sets of tokens are told apart. All but the last are borders.
SAME = "same"
EQUALS = "which of equal logits"  # as many of each logit
TIES = "how many of equal logits"  # at the border, and no other tokens
ROUNDING = "rounding"  # ours with a parameter that is a little different
UNKNOWN = "unknown"
# By how much, relative to the parameter: what running sums of 262,144 numbers in single precision are off.
LITTLE = [1e-7, 1e-6, 1e-5, 1e-4, 3e-4]

# What each keeps of whole rows: the parameters, and how many of the rows and temperatures may differ in how many of equal logits
# or in rounding. Which of equal logits a library keeps is up to its sort, which is not stable.
TEMPERATURES = [0.7, 1.0, 1.5]
WHOLE: dict[str, list[tuple[dict[str, Any], int]]] = {
    "hf": [
        ({"top_k": 50}, 0), ({"min_p": 0.05}, 0), ({"epsilon_cutoff": 3e-4}, 0), ({"top_p": 0.95}, 0), ({"top_p": 0.5}, 0),
        ({"typical_p": 0.9}, 7), ({"typical_p": 0.5}, 2), ({"typical_p": 0.2}, 1),
        ({"eta_cutoff": 3e-4}, 1), ({"eta_cutoff": 2e-3}, 1), ({"eta_cutoff": 1e-2}, 1),
        ({"top_h": 0.4}, 0),
        # A running sum that must equal the sum of all.
        ({"top_h": 1.0}, 25),
        ({"top_h": 0.8, "top_k": 40, "top_p": 0.95}, 0),
        ({"top_k": 50, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "epsilon_cutoff": 3e-4, "eta_cutoff": 2e-3}, 0),
    ],
    "vllm": [
        ({"top_k": 50}, 0), ({"min_p": 0.05}, 0), ({"top_p": 0.95}, 0), ({"top_k": 50, "top_p": 0.9}, 0),
        ({"top_k": 200, "top_p": 0.9, "min_p": 0.02}, 0),
    ],
    # What of equal logits is kept is as in FlashInfer: its path of torch keeps no ties, so each row with ties at a border differs.
    "sglang": [
        ({"top_k": 50}, 12), ({"min_p": 0.05}, 0), ({"top_p": 0.95}, 23), ({"top_k": 50, "top_p": 0.9}, 12),
        ({"top_k": 200, "min_p": 0.02}, 12),
    ],
    "llamacpp": [
        ({"top_k": 40}, 0), ({"min_p": 0.05}, 0), ({"top_n_sigma": 1.0}, 1), ({"typical_p": 0.9}, 5), ({"typical_p": 0.5}, 5),
        ({"top_p": 0.95}, 6), ({"xtc_probability": 1, "xtc_threshold": 0.1}, 0),
        ({"top_k": 40, "top_p": 0.95, "min_p": 0.05, "xtc_probability": 1, "xtc_threshold": 0.1}, 0),
        ({"mirostat_tau": 3.0}, 0), ({"mirostat_tau": 5.0}, 0),
    ],
}


def rows() -> np.ndarray:
    """Every fourth of the recording."""
    return np.stack([row for index, row in recording().items() if index % 4 == 0])


def ours(row: np.ndarray, profile: str, controls: dict[str, Any]) -> np.ndarray:
    kept = logitd.sample(row, profile=profile, seed=1, return_kept=True, **controls).kept_ids[0]
    assert kept is not None
    return kept


def difference(row: np.ndarray, profile: str, controls: dict[str, Any], theirs: np.ndarray) -> str:
    """How what we keep differs from what they keep."""
    kept = ours(row, profile, controls)
    if np.array_equal(kept, theirs):
        return SAME
    if at_one_border(row, kept, theirs):
        return EQUALS if len(kept) == len(theirs) else TIES
    for name, value in moved(controls):
        if at_one_border(row, ours(row, profile, controls | {name: value}), theirs):
            return ROUNDING
    return UNKNOWN


def at_one_border(row: np.ndarray, kept: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether sets are the same but for tokens of one logit, of which both keep some."""
    logits = np.unique(row[np.setxor1d(kept, theirs)])
    return len(logits) == 0 or len(logits) == 1 and all(logits[0] in row[ids] for ids in (kept, theirs))


def moved(controls: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The shares among the parameters, each a little smaller and larger."""
    for by in LITTLE:
        for name, value in controls.items():
            if name not in ("temperature", "top_k", "xtc_probability"):
                yield name, value * (1 - by)
                yield name, min(value * (1 + by), 1.0) if value <= 1 else value * (1 + by)


@pytest.mark.parametrize("profile", LIBRARIES)
def test_real_rows_are_cut_as_the_library_cuts_them(profile: str) -> None:
    library = LIBRARIES[profile]()
    print(f"\n{profile}: {library.version}")
    # In llama.cpp the temperature comes after the cuts, so one is enough to see that it changes nothing.
    temperatures = [0.7] if profile == "llamacpp" else TEMPERATURES
    for controls, most in WHOLE[profile]:
        found = Counter(
            difference(row, profile, asked, library.kept(row.astype(np.float32), **asked))
            for asked in [controls | {"temperature": temperature} for temperature in temperatures]
            for row in rows())
        print(f"  {controls}: {dict(found)}", flush=True)
        assert found[UNKNOWN] == 0 and found[TIES] + found[ROUNDING] <= most, (controls, found)


# Any of these together.
TOGETHER = {
    "hf": ["top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"],
    "vllm": ["top_k", "top_p", "min_p"],
    "sglang": ["top_k", "top_p", "min_p"],
    "llamacpp": ["top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc_threshold"],
}
BETWEEN = {
    "top_h": (0.2, 0.95), "top_p": (0.3, 0.99), "min_p": (0.001, 0.2), "typical_p": (0.2, 0.95), "epsilon_cutoff": (1e-4, 1e-2),
    "eta_cutoff": (1e-4, 1e-2), "top_n_sigma": (0.5, 3), "xtc_threshold": (0.02, 0.4),
}


def together(profile: str, rng: np.random.Generator) -> dict[str, Any]:
    """Parameters of a request, some of those that the profile has."""
    controls: dict[str, Any] = {"temperature": round(rng.uniform(0.5, 2), 2)}
    for name in TOGETHER[profile]:
        if rng.random() < 0.5:
            controls[name] = int(rng.integers(2, 300)) if name == "top_k" else round(rng.uniform(*BETWEEN[name]), 4)
    if "xtc_threshold" in controls:
        controls["xtc_probability"] = 1
    return controls


def apart(profile: str, controls: dict[str, Any]) -> bool:
    """Whether these are cut in another way there, which a test below shows."""
    return {"sglang": {"top_k", "top_p", "min_p"}, "llamacpp": {"top_n_sigma", "typical_p"}}.get(profile, {""}) <= controls.keys()


@pytest.mark.parametrize("profile", LIBRARIES)
def test_all_cuts_together_have_the_order_of_the_library(profile: str) -> None:
    library = LIBRARIES[profile]()
    rng = np.random.default_rng(11)
    found = Counter[str]()
    # Without equal logits nothing is up to a sort.
    distinct = [rng.permutation(np.unique(row)) for row in rows()]
    while found.total() < 400:
        controls = together(profile, rng)
        if len(controls) > 1 and not apart(profile, controls):
            row = distinct[rng.integers(len(distinct))]
            kind = difference(row, profile, controls, library.kept(row.astype(np.float32), **controls))
            assert kind in (SAME, ROUNDING), controls
            found[kind] += 1
    print(f"\n{profile}: {library.version}: {dict(found)}")
    assert found[ROUNDING] <= 4


def test_sglang_takes_a_nucleus_of_the_whole_row_where_flashinfer_does_not() -> None:
    # The profile is that of FlashInfer, where top_p with min_p is of what top_k left.
    library = Sglang()
    found = Counter[bool]()
    for row in rows():
        nucleus: dict[str, Any] = {"top_k": 50, "top_p": 0.9}
        theirs = library.kept(row.astype(np.float32), temperature=1, min_p=0.02, **nucleus)
        of_torch = np.intersect1d(ours(row, "sglang", nucleus), ours(row, "sglang", {"min_p": 0.02}))
        assert at_one_border(row, of_torch, theirs)
        found[np.array_equal(theirs, ours(row, "sglang", {"min_p": 0.02, **nucleus}))] += 1
    print(f"\nsglang: {library.version}: the same in {found[True]}, another nucleus in {found[False]}")
    assert found[False] > 0


def test_llama_cpp_has_no_entropy_after_top_n_sigma() -> None:
    # It leaves tokens there with a probability of 0, and 0 times the logarithm of 0 is no number. Given what top_n_sigma left
    # alone, it keeps what we keep.
    library = LlamaCpp()
    cuts = {"top_n_sigma": 1.5, "typical_p": 0.9}
    found = Counter[str]()
    for row in rows():
        row = np.unique(row)
        left = library.kept(row.astype(np.float32), temperature=1, top_n_sigma=1.5)
        alone = left[library.kept(row[left].astype(np.float32), temperature=1, typical_p=0.9)]
        assert difference(row, "llamacpp", cuts, alone) in (SAME, ROUNDING)
        at_once = library.kept(row.astype(np.float32), temperature=1, **cuts)
        found[SAME if np.array_equal(at_once, alone) else "not a number"] += 1
    print(f"\nllamacpp: {library.version}: {dict(found)}")
    assert found["not a number"] > 0


def test_llama_cpp_without_a_temperature_takes_the_first_token_that_is_left() -> None:
    library = LlamaCpp()
    cuts: dict[str, Any] = {"top_k": 40, "xtc_probability": 1, "xtc_threshold": 0.05}
    changed = 0
    for row in rows():
        row = np.unique(row)
        theirs = library.kept(row.astype(np.float32), temperature=0, **cuts)
        assert logitd.sample(row, profile="llamacpp", temperature=0, seed=1, **cuts).tokens.tolist() == theirs.tolist()
        changed += theirs[0] != row.argmax()
    assert changed > 0
