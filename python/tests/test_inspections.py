"""What is told beside tokens, padded rows, and rows that are wrong beside rows that are right."""

import math
from typing import Any

import numpy as np
import pytest
from tensors import DLPack

import logitd
from logitd import Logprobs

V = 70
X = np.random.default_rng(3).normal(0, 2, (4, V)).astype(np.float32)
ALL = Logprobs(["raw", "adjusted", "sampled"], top=5, ids=[3, 69, 3])


def test_logprobs_are_those_of_the_softmax() -> None:
    results = logitd.sample(X, temperature=0.5, top_k=8, seed=range(4), draws=3, banned_ids=[7], logprobs=ALL)
    raw = X.astype(np.float64)
    adjusted = raw / 0.5
    adjusted[:, 7] = -math.inf
    kept = np.where(adjusted >= np.sort(adjusted)[:, -8:-7], adjusted, -math.inf)
    for name, logits in [("raw", raw), ("adjusted", adjusted), ("sampled", kept)]:
        found = getattr(results, name)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        probabilities = np.exp(expected)
        entropy = -(probabilities * np.where(probabilities > 0, expected, 0)).sum(axis=1)
        np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5)
        order = np.argsort(-expected, axis=1, kind="stable")
        assert found.top_tokens.tolist() == order[:, :5].tolist(), name
        np.testing.assert_allclose(found.top_logprobs, np.take_along_axis(expected, order[:, :5], 1), rtol=1e-5)
        np.testing.assert_allclose(found.draw_logprobs, np.take_along_axis(expected, results.draws, 1), rtol=1e-5)
        assert (np.take_along_axis(order, found.draw_ranks - 1, 1) == results.draws).all(), name
        assert (found.ranks == found.draw_ranks[:, 0]).all() and (found.logprobs == found.draw_logprobs[:, 0]).all()
        np.testing.assert_allclose(found.id_logprobs, expected[:, [3, 69, 3]], rtol=1e-5)
        assert ((found.id_ranks == 0) == np.isneginf(expected[:, [3, 69, 3]])).all()
        assert found.status.tolist() == [0] * 4
    np.testing.assert_array_equal(results.sampled.draw_logprobs, results.draw_logprobs)
    assert repr(results.raw) == 'Distribution("raw", rows=4)' and results.raw is results.raw


def test_what_is_asked_is_one_for_all_or_one_a_row() -> None:
    asked = [None, "raw", Logprobs("raw", top=2), Logprobs(("sampled", "raw"), ids=np.array([5]))]
    results = logitd.sample(X, seed=7, logprobs=asked, return_kept=[True, False, None, np.bool_(True)], top_k=3)
    assert results.raw.status.tolist() == [255, 0, 0, 0] and results.sampled.status.tolist() == [255, 255, 255, 0]
    assert results.raw.top_tokens.shape == (4, 2) and results.raw.id_ranks.shape == (4, 1)
    assert (results.raw.top_tokens[[0, 1, 3]] == -1).all() and np.isnan(results.raw.top_logprobs[[0, 1, 3]]).all()
    assert results.raw.ranks[0] == 0 and math.isnan(results.raw.logprobs[0]) and math.isnan(results.raw.entropy[0])
    assert results.raw.id_ranks[:, 0].astype(bool).tolist() == [False, False, False, True]
    kept = results.kept_ids
    assert [ids is None for ids in kept] == [False, True, True, False]
    assert kept[0] is not None and kept[0].tolist() == sorted(np.argsort(-X[0])[:3].tolist())
    assert results.kept_bitmask.shape == (4, 3) and not results.kept_bitmask[1:3].any()
    again = logitd.sample(X[0], seed=9, allowed_bitmask=results.kept_bitmask[0], return_kept=True).kept_ids[0]
    assert again is not None and again.tolist() == kept[0].tolist()
    without = logitd.sample(X, seed=7, top_k=3)
    assert without.tokens.tolist() == results.tokens.tolist() and without.kept_ids == [None] * 4
    with pytest.raises(AttributeError, match='nothing was asked of the raw distribution: logprobs="raw" asks for it'):
        without.raw


def test_many_kept_tokens_are_told_in_both_forms() -> None:
    x = np.zeros(10_001, np.float16)
    results = logitd.sample(x, banned_ids=[5, 10_000], return_kept=True)
    kept = results.kept_ids[0]
    assert kept is not None and kept.dtype == np.uint32
    assert kept.tolist() == [token for token in range(10_000) if token != 5]
    words = np.unpackbits(results.kept_bitmask[0].view(np.uint8), bitorder="little")
    assert words.nonzero()[0].tolist() == kept.tolist()


def test_rows_without_a_token_have_their_raw_distribution() -> None:
    results = logitd.sample(X[:1], allowed_ids=[1], banned_ids=[1], logprobs=["raw"], return_kept=True)
    assert results.tokens.tolist() == [-1] and results.kept_ids == [None]
    assert results.raw.status.tolist() == [0] and results.raw.entropy[0] > 0
    assert results.raw.draw_ranks.tolist() == [[0]] and np.isnan(results.raw.draw_logprobs).all()


def test_draws_are_where_the_results_have_them() -> None:
    results = logitd.sample(X[:2], seed=7, draws=[1, 3], logprobs=["raw", None])
    assert results.draws.shape == results.raw.draw_ranks.shape == results.raw.draw_logprobs.shape == (2, 3)
    assert results.raw.draw_ranks[0, 0] == results.raw.ranks[0] > 0
    assert results.raw.draw_ranks.astype(bool).tolist() == [[True, False, False], [False] * 3]
    assert results.raw.top_tokens.shape == (2, 0)


@pytest.mark.parametrize(("asked", "error", "said"), [
    ("rw", ValueError, "logprobs.of names rw; allowed: raw, adjusted, sampled"),
    (Logprobs(["raw", "raw"]), ValueError, "of names raw; allowed: .* each of them once"),
    (Logprobs([]), ValueError, "logprobs.of is empty"),
    (Logprobs("raw", top=1025), ValueError, "logprobs.top is 1025; allowed: 0 to 1024"),
    (Logprobs("raw", top=-1), ValueError, "logprobs.top is -1; allowed"),
    (Logprobs("raw", ids=[0, V]), ValueError, r"logprobs.ids\[1\] is token 70; allowed: below vocab_size, 70"),
    (Logprobs("raw", ids=[1] * 1025), ValueError, "logprobs.ids has 1025 tokens; allowed: up to 1024"),
    ([None, None, "rw", None], ValueError, "^row 2: logprobs.of names rw"),
    (["raw"] * 3, ValueError, "logprobs has 3 values for 4 rows"),
    (5, TypeError, "logprobs is a <class 'int'>; allowed: raw, adjusted, sampled, or a logitd.Logprobs"),
])
def test_what_cannot_be_asked_is_named(asked: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        logitd.sample(X, logprobs=asked)


def test_padding_is_never_looked_at() -> None:
    padded = np.full((4, 128), np.nan, np.float32)
    padded[:, :V] = X
    expected = logitd.sample(X, seed=7, draws=5)
    for x in [padded, DLPack(padded), padded[::-1][::-1]]:
        assert logitd.sample(x, vocab_size=V, seed=7, draws=5).draws.tolist() == expected.draws.tolist()
    assert logitd.sample(padded[1], vocab_size=V, seed=7, draws=5).draws.tolist() == expected.draws[1:2].tolist()
    assert logitd.sample(padded, seed=7).status.tolist() == [logitd.Status.NAN] * 4
    for vocab_size in [0, 129, -1, "many"]:
        with pytest.raises(ValueError, match=f"vocab_size is {vocab_size}; allowed: 1 to 128, the logits"):
            logitd.sample(padded, vocab_size=vocab_size)


def test_wrong_rows_have_a_status_where_it_is_asked_for() -> None:
    wrong: dict[str, Any] = {"temperature": [0.5, -1, 0.5, 0.5], "banned_ids": [None, None, [V], None], "top_k": 5, "seed": [1, 2, 3, 4],
                             "logprobs": ["raw", "raw", "raw", Logprobs("raw", top=2000)]}
    with pytest.raises(ValueError, match="^row 1: temperature is -1"):
        logitd.sample(X, **wrong)
    results = logitd.sample(X, **wrong, on_invalid_row="status", return_kept=True)
    check_wrong_rows(results)
    with pytest.raises(logitd.RowError, match=r"row 1 has no token: INVALID_PARAMETERS: temperature is -1; allowed.*\(and 2 more\)"):
        results.raise_for_status()
    # What is for all rows is wrong with each of them.
    every = logitd.sample(X, temperature=-1, banned_ids=[V], on_invalid_row="status")
    assert every.status.tolist() == [4] * 4 and every.violations[3][0] == "params.temperature"
    every = logitd.sample(X, dry={"base": 0.5}, on_invalid_row="status")
    assert every.violations[0][0] == "params.dry.base"
    every = logitd.sample(X, banned_ids=[V], on_invalid_row="status")
    assert every.violations[2] == ("adjustments.banned_ids[0]", "banned_ids[0] is token 70; allowed: below vocab_size, 70")
    # What is wrong with the call is an error all the same.
    for controls, error in [({"temperature": "high"}, TypeError), ({"top_p": [0.5]}, ValueError), ({"vocab_size": 71}, ValueError)]:
        with pytest.raises(error):
            logitd.sample(X, **controls, on_invalid_row="status")
    with pytest.raises(ValueError, match="on_invalid_row is skip; allowed: refuse, status"):
        logitd.sample(X, on_invalid_row="skip")
    right = logitd.sample(X, seed=7, on_invalid_row="status")
    assert right.tokens.tolist() == logitd.sample(X, seed=7, on_invalid_row="refuse").tokens.tolist() and right.violations == {}


def check_wrong_rows(results: logitd.Results) -> None:
    assert results.status.tolist() == [0, 4, 4, 4]
    assert results.tokens[1:].tolist() == [-1] * 3 and results.seeds.tolist() == [1, 0, 0, 0]
    alone = logitd.sample(X[0], temperature=0.5, top_k=5, seed=1)
    assert results.tokens[0] == alone.tokens[0] and results.kept_mass[0] == alone.kept_mass[0]
    assert results.raw.status.tolist() == [0, 255, 255, 255]
    assert {row: field for row, (field, _) in results.violations.items()} == {
        1: "params.temperature", 2: "adjustments.banned_ids[0]", 3: "params.logprobs"}
    assert results.violations[1][1].startswith("temperature is -1; allowed: ")
