"""Steps of beam searches in process, and searches of them."""

import math
from typing import Any

import known
import numpy as np
import pytest

import logitd

X = np.random.default_rng(5).normal(0, 2, (6, 200)).astype(np.float32)


@pytest.mark.parametrize("sampler", [logitd.Sampler(threads=2), logitd.Sampler(device="reference")], ids=repr)
def test_every_known_answer(sampler: logitd.Sampler) -> None:
    cases = known.stepped()
    assert len(cases) >= 13, "the file has shrunk"
    for case in cases:
        [group] = sampler.beam_step(case.rows, case.scores, **case.controls)
        expect(case, group)


def expect(case: known.Stepped, group: logitd.BeamGroup) -> None:
    assert [logitd.Status(status).name for status in group.status] == case.expect["statuses"], case.name
    for name in ("candidates", "running", "finished"):
        if name in case.expect:
            assert triples(getattr(group, name)) == [tuple(each) for each in case.expect[name]], (case.name, name)


def triples(of: logitd.Continuations) -> list[tuple[int, int, int]]:
    return list(zip(of.beams.tolist(), of.tokens.tolist(), of.scores.tolist(), strict=True))


def test_groups_of_a_batch_are_the_groups_alone() -> None:
    scores = [[0, -5 << 30], [-1], [7, 7, 7]]
    rules: dict[str, Any] = {"beams": 3, "eos_ids": [3], "temperature": 0.7, "banned_ids": [[i] for i in range(6)], "repetition_penalty": 1.5, "output": [1, 2]}
    together = logitd.beam_step(X, scores, **rules)
    at = 0
    for own, group in zip(scores, together, strict=True):
        rows = slice(at, at + len(own))
        [alone] = logitd.beam_step(X[rows], np.array(own), **(rules | {"banned_ids": rules["banned_ids"][rows]}))
        for name in ("candidates", "running", "finished"):
            assert triples(getattr(alone, name)) == triples(getattr(group, name))
        assert len(group.running) == 3
        at += len(own)


def test_min_tokens_bans_what_finishes_a_beam() -> None:
    first = int(X[0].argmax())
    [group] = logitd.beam_step(X[:1], [0], beams=2, eos_ids=[first])
    assert triples(group.finished)[0][1] == first
    [group] = logitd.beam_step(X[:1], [0], beams=2, eos_ids=[first], min_tokens=1, output_length=0)
    assert len(group.finished) == 0 and first not in group.candidates.tokens


@pytest.mark.parametrize(("scores", "controls", "said"), [
    ([0], {"beams": 0}, "group 0: beams is 0; allowed: 1 to 64"),
    ([0], {"beams": 2, "eos_ids": [1, 1]}, "eos_ids\\[1\\] is 1, which is there before"),
    ([0] * 6, {"beams": 3}, "scores has 6 scores; allowed: up to 3"),
    ([0], {"beams": 2}, "x has 6 rows, and there are 1 scores; allowed: a row a score"),
    ([2**63], {"beams": 2}, "scores\\[0\\] is 9223372036854775808; allowed: whole numbers of 64 bits"),
    ([0] * 6, {"beams": 6, "top_k": 5}, "row 0: top_k is 5, and a step of beams cuts and draws nothing"),
    ([0] * 6, {"beams": 6, "normaliser": "none"}, "normaliser is none; allowed: adjusted, raw"),
    ([0] * 6, {"beams": 6, "temperature": 0}, "temperature is 0; allowed: 0.0001 to 10000"),
    ([0] * 6, {"beams": 6, "logprobs": "raw"}, "logprobs and return_kept stand with a step of beams"),
])
def test_what_is_wrong_is_refused_by_name(scores: Any, controls: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        logitd.beam_step(X, scores, **controls)


def logits(tokens: np.ndarray) -> np.ndarray:
    """A model of eight tokens that looks at the last one."""
    last = int(tokens[-1]) if len(tokens) else 7
    return np.random.default_rng([last, len(tokens)]).normal(0, 2, 8).astype(np.float32)


def best(length: int, eos: int) -> list[tuple[float, list[int]]]:
    """Every text up to a length with its score in nats, best first."""
    found, texts = [], [(0.0, [])]
    for step in range(length):
        further = []
        for score, tokens in texts:
            row = logits(np.array(tokens, np.uint32)).astype(np.float64)
            logprobs = row - np.log(np.exp(row).sum())
            for token in range(8):
                one = (score + float(logprobs[token]), [*tokens, token])
                (found if token == eos or step == length - 1 else further).append(one)
        texts = further
    return sorted(found, key=lambda one: -one[0])


def test_a_search_that_leaves_nothing_out_finds_the_best_texts() -> None:
    search = logitd.BeamSearch(2, beams=64, eos_ids=[0], max_length=3, length_penalty=0.0)
    assert (search.open, search.scores, search.parents.tolist()) == ([0, 1], [[0], [0]], [0, 1])
    steps = 0
    while search.open:
        search.step(np.stack([logits(tokens) for tokens in search.tokens]))
        steps += 1
    expected = best(3, 0)
    assert steps == 3 and search.ends == ["length", "length"]
    for texts in search.found:
        for text, (score, tokens) in zip(texts[:10], expected[:10], strict=True):
            assert text.tokens.tolist() == tokens
            assert math.isclose(text.normalised, score, abs_tol=1e-6) and text.score == round(text.normalised * 2**32)


def test_parents_are_the_rows_of_the_step_before() -> None:
    search = logitd.BeamSearch(2, beams=3, eos_ids=[0], max_length=6)
    before = search.tokens
    while search.open:
        search.step(np.stack([logits(tokens) for tokens in search.tokens]), logitd.Sampler(threads=1))
        for tokens, parent in zip(search.tokens, search.parents.tolist(), strict=True):
            assert tokens[:-1].tolist() == before[parent].tolist()
        before = search.tokens
    assert all(len(texts) == 3 for texts in search.found)


def test_a_search_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="beams is 65; allowed: 1 to 64"):
        logitd.BeamSearch(beams=65)
    with pytest.raises(ValueError, match="early_stopping is soon; allowed: True, False, never"):
        logitd.BeamSearch(beams=2, early_stopping="soon")  # type: ignore[arg-type]
    search = logitd.BeamSearch(beams=2)
    with pytest.raises(TypeError, match="beams is the search's own; leave it out"):
        search.step(X[:1], beams=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="a step that does not fit: 0 groups, and 1 are open"):
        search.advance([])
    nan = np.full((1, 8), np.nan, np.float32)
    with pytest.raises(ValueError, match="group 0 has found no text"):
        search.step(nan)
