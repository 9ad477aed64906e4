"""Every known answer of `tests/vectors` that has rows, through Python."""

from typing import Any

import known
import numpy as np
import pytest
from tensors import DLPack

import logitd

# How each is read, and how many cases it has at least where only the carried rows of the recording are.
FILES = {
    "rows": (known.carried_small_rows, 500),
    "real_rows": (known.carried_real_rows, 50),
    "independent/edge_rows": (lambda: known.version_1("edge_rows"), 75),
    "independent/tiny_rows": (lambda: known.version_1("tiny_rows"), 60),
    "independent/real_rows": (lambda: known.version_1("real_rows"), 16),
    "independent/race": (lambda: known.version_2("race"), 16),
    "independent/adjustments": (lambda: known.version_2("adjustments"), 50),
    "independent/controls": (lambda: known.version_2("controls"), 10),
    "independent/cuts": (lambda: known.version_2("cuts"), 168),
    "independent/inspections": (lambda: known.version_2("inspections"), 106),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_known_answers(name: str) -> None:
    read, least = FILES[name]
    cases = read()
    print(f"{name}: {len(cases)} cases")
    assert len(cases) >= least, "the file has shrunk"
    for case in cases:
        expect(case, logitd.sample(case.row, **case.controls))


def test_dlpack_gives_what_numpy_gives() -> None:
    for case in known.carried_small_rows():
        is_bfloat16 = case.row.dtype.name == "bfloat16"
        stored = case.row.view(np.uint16) if is_bfloat16 else case.row
        expect(case, logitd.sample(DLPack(stored, bfloat16=is_bfloat16), **case.controls))


@pytest.mark.parametrize("sampler", [
    logitd.Sampler(threads=1, isa="portable"),
    logitd.Sampler(threads=3),
    logitd.Sampler(device="reference"),
], ids=repr)
def test_every_sampler_knows_them(sampler: logitd.Sampler) -> None:
    for case in known.version_1("edge_rows") + known.version_2("adjustments"):
        expect(case, sampler.sample(case.row, **case.controls))


def test_cases_of_one_row_are_the_rows_of_a_batch() -> None:
    cases = known.carried_small_rows()
    by_row: dict[int, list[known.Case]] = {}
    for case in cases:
        by_row.setdefault(id(case.row), []).append(case)
    keys = sorted({key for case in cases for key in case.controls})
    for batch in by_row.values():
        x = np.broadcast_to(batch[0].row, (len(batch), len(batch[0].row)))
        results = logitd.sample(x, **{key: [case.controls.get(key) for case in batch] for key in keys})
        for i, case in enumerate(batch):
            expect(case, results, i)


def expect(case: known.Case, results: logitd.Results, row: int = 0) -> None:
    expected = case.expect
    assert logitd.Status(results.status[row]).name == expected["status"], case.name
    if "logprobs" in expected:
        expect_logprobs(case, results, row)
    if expected["status"] != "OK":
        assert results.tokens[row] == -1 and np.isnan(results.logprobs[row]), case.name
        assert results.kept[row] == 0, case.name
        return
    assert (results.kept[row], results.kept_mass[row]) == (expected["kept"], expected["kept_mass"]), case.name
    if "draws" in expected and isinstance(expected["draws"][0], list):
        tokens, logprobs = zip(*expected["draws"], strict=True)
        count = len(tokens)
        assert results.draws[row, :count].tolist() == list(tokens), case.name
        assert bits(results.draw_logprobs[row, :count]) == [int(pattern, 16) for pattern in logprobs], case.name
        assert (results.draws[row, count:] == -1).all(), case.name
    if "draws" in expected and not isinstance(expected["draws"][0], list):
        assert results.draws[row].tolist() == expected["draws"], case.name
    if "token" in expected:
        assert results.tokens[row] == expected["token"], case.name
    if "logprob_bits" in expected:
        assert is_near(results.logprobs[row], expected["logprob_bits"], case.logprob_within), case.name
    for state in ["mirostat_mu", "adaptive_sum", "adaptive_weight"]:
        found = getattr(results, state)
        if f"{state}_bits" in expected:
            assert bits(found)[row] == int(expected[f"{state}_bits"], 16), case.name
        elif not {"mirostat_tau", "adaptive_target"} & case.controls.keys():
            assert np.isnan(found[row]), case.name
    if "kept_ids" in expected:
        assert results.kept_ids[row] is not None and results.kept_ids[row].tolist() == expected["kept_ids"], case.name
        words = results.kept_bitmask[row].tolist()
        assert [token for token in range(len(words) * 32) if words[token // 32] >> token % 32 & 1] == expected["kept_ids"], case.name


def expect_logprobs(case: known.Case, results: logitd.Results, row: int = 0) -> None:
    expected, asked = case.expect["logprobs"], case.controls["logprobs"]
    found = getattr(results, asked.of)
    assert logitd.Status(found.status[row]).name == expected["status"], case.name
    if expected["status"] != "OK":
        assert np.isnan(found.entropy[row]) and found.top_tokens.shape[1] == found.id_ranks.shape[1] == 0, case.name
        return
    assert is_near(found.entropy[row], expected["entropy_bits"], 1), case.name
    if expected.get("token") is not None:
        same_token(expected["token"], results.tokens[row], found.ranks[row], found.logprobs[row], case)
    assert found.top_tokens.shape[1] == found.top_logprobs.shape[1] == len(expected["top"]), case.name
    for i, token in enumerate(expected["top"]):
        same_token(token, found.top_tokens[row, i], i + 1, found.top_logprobs[row, i], case)
    assert found.id_ranks.shape[1] == len(expected["ids"]), case.name
    for i, token in enumerate(expected["ids"]):
        same_token(token, asked.ids[i], found.id_ranks[row, i], found.id_logprobs[row, i], case)


def same_token(expected: dict[str, Any], token: int, rank: int, logprob: np.float32, case: known.Case) -> None:
    assert (expected["token"], expected["rank"]) == (token, rank), case.name
    assert is_near(logprob, expected["logprob_bits"], case.logprob_within), case.name


def is_near(value: np.float32, pattern: str, within: int) -> bool:
    return abs(bits(np.array([value], np.float32))[0] - int(pattern, 16)) <= within


def bits(values: np.ndarray) -> list[int]:
    return values.view(np.uint32).tolist()
