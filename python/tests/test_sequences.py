"""Drafts of sequences, verified in process: every known answer, every kind of array, and what is refused."""

from typing import Any

import known
import numpy as np
import pytest
from known import bits
from tensors import DLPack

import logitd

X = np.random.default_rng(3).normal(0, 3, (9, 1000)).astype(np.float16)
RULES: dict[str, Any] = {"temperature": 0.8, "top_k": 20, "seed": 7, "position": 5}


@pytest.mark.parametrize("sampler", [
    logitd.Sampler(threads=2),
    logitd.Sampler(threads=1, isa="portable"),
    logitd.Sampler(device="reference"),
], ids=repr)
def test_every_known_answer(sampler: logitd.Sampler) -> None:
    cases = known.drafted()
    assert len(cases) >= 43, "the file has shrunk"
    for case in cases:
        expect(case, sampler.verify(case.rows, case.drafts, **case.controls))


def expect(case: known.Drafted, verified: logitd.Verified) -> None:
    expected = case.expect
    assert logitd.Status(verified.status[0]).name == expected["status"], case.name
    assert verified.tokens_of(0).tolist() == verified.tokens[0].tolist() == expected["tokens"], case.name
    if "accepted" in expected:
        assert verified.accepted.tolist() == [expected["accepted"]], case.name
    if "path" in expected:
        assert verified.path[0].tolist() == expected["path"], case.name
    if "logprob_bits" in expected:
        assert len(verified.logprobs[0]) == len(expected["logprob_bits"]), case.name
        for logprob, pattern in zip(bits(verified.logprobs[0]), expected["logprob_bits"], strict=True):
            assert abs(logprob - int(pattern, 16)) <= 1, case.name


def test_matching_drafts_change_no_token() -> None:
    history = logitd.History([1, 2])
    rules = RULES | {"repetition_penalty": 1.3}
    tokens = []
    for step, row in enumerate(X[:4]):
        token = int(logitd.sample(row, **(rules | {"position": 5 + step}), history=history).tokens[0])
        tokens.append(token)
        history.append(token)
    right, wrong = tokens[:3], [*tokens[:2], (tokens[2] + 1) % 1000]
    verified = logitd.verify(X[:4], right, **rules, prompt=[1, 2])
    assert (verified.accepted.tolist(), verified.tokens.tolist()) == ([3], [tokens])
    verified = logitd.verify(np.concatenate([X[:4], X[:4]]), [right, wrong], **rules, prompt=[1, 2])
    assert verified.accepted.tolist() == [3, 2]
    assert verified.tokens.tolist() == [tokens, [*tokens[:3], -1]]
    assert np.isnan(verified.logprobs[1, 3]) and not np.isnan(verified.logprobs[0]).any()
    assert verified.seeds.tolist() == [7, 7] and len(verified) == 2


def test_a_sequence_without_drafts_is_a_row_of_sample() -> None:
    sampled = logitd.sample(X, seed=range(9), logprobs="raw")
    verified = logitd.verify(X, [[]] * 9, seed=range(9), logprobs="raw")
    assert verified.tokens[:, 0].tolist() == sampled.tokens.tolist()
    assert bits(verified.logprobs[:, 0]) == bits(sampled.logprobs)
    assert verified.rows is not None
    assert bits(verified.rows.raw.logprobs) == bits(sampled.raw.logprobs)
    assert bits(verified.rows.raw.entropy) == bits(sampled.raw.entropy)
    assert logitd.verify(X, [None] * 9, seed=range(9)).rows is None
    assert logitd.verify(X[0], [], seed=0).tokens.tolist() == [[sampled.tokens[0]]]


def test_controls_and_modes_may_be_one_a_sequence() -> None:
    drafts = [[3, 4], [5], [6, 7, 8]]
    x = np.concatenate([X[:3], X[3:5], X[5:9]])
    controls: dict[str, Any] = {"seed": [1, 2, 3], "temperature": [0.5, 1.0, 2.0], "mode": ["match", "typical", "rejection"],
                "typical_epsilon": [None, 0.5, None], "prompt": [[1], [2, 3], []]}
    together = logitd.verify(x, drafts, **controls)
    at = 0
    for i, own in enumerate(drafts):
        rows = x[at : at + len(own) + 1]
        alone = logitd.verify(rows, own, **{name: values[i] for name, values in controls.items()})
        assert alone.tokens_of(0).tolist() == together.tokens_of(i).tolist()
        assert alone.accepted[0] == together.accepted[i]
        at += len(own) + 1


def test_arrays_of_every_kind_are_read() -> None:
    drafts = np.array([[3, 4], [5, 6]], np.int64)
    expected = logitd.verify(X[:6], drafts.tolist(), **RULES)
    for x in [DLPack(X[:6]), np.pad(X[:6], ((0, 0), (0, 8)))[:, :1000], memoryview(X[:6])]:
        assert logitd.verify(x, drafts, **RULES).tokens.tolist() == expected.tokens.tolist()


def test_what_drafts_were_drawn_from_is_said_in_several_ways() -> None:
    drafts, rules = [[3, 4], [5]], RULES | {"mode": "rejection"}
    q = np.random.default_rng(4).normal(0, 3, (3, 1000)).astype(np.float16)
    flat = [3, 4, 5]
    by_rows = logitd.verify(X[:5], drafts, distributions=logitd.DraftLogits(q, temperature=0.8), **rules)
    one_by_one = [logitd.DraftLogits(row, temperature=0.8) for row in q]
    assert same(logitd.verify(X[:5], drafts, distributions=one_by_one, **rules), by_rows)
    certain = logitd.verify(X[:5], drafts, **rules)
    weights = [{token: 5} for token in flat]
    assert same(logitd.verify(X[:5], drafts, distributions=[None] * 3, **rules), certain)
    assert same(logitd.verify(X[:5], drafts, distributions=weights, **rules), certain)
    p = np.eye(1000, dtype=np.float32)[flat]
    assert same(logitd.verify(X[:5], drafts, distributions=p, **rules), certain)
    assert same(logitd.verify(X[:5], drafts, distributions=[p[0], weights[1], None], **rules), certain)


def same(one: logitd.Verified, other: logitd.Verified) -> bool:
    return one.tokens.tolist() == other.tokens.tolist() and bits(one.logprobs) == bits(other.logprobs)


def test_bans_may_be_of_single_rows() -> None:
    drafts = [[3, 4], [5]]
    mask = np.zeros((5, 32), np.int32)
    allowed = [3, 4, 9, 5, 7]
    for row, token in enumerate(allowed):
        mask[row, token // 32] = np.int32(1) << (token % 32)
    verified = logitd.verify(X[:5], drafts, **RULES, row_allowed_bitmask=mask)
    assert (verified.accepted.tolist(), verified.tokens.tolist()) == ([2, 1], [[3, 4, 9], [5, 7, -1]])
    by_ids = logitd.verify(X[:5], drafts, **RULES, row_allowed_ids=[[token] for token in allowed])
    assert same(by_ids, verified)
    banned = logitd.verify(X[:5], drafts, **RULES, row_allowed_bitmask=mask, row_banned_ids=[None, [4], None, None, None])
    assert logitd.Status(banned.status[0]).name == "NO_CANDIDATE" and banned.tokens.tolist() == [[3, -1], [5, 7]]
    with pytest.raises(logitd.RowError, match="sequence 0 has no token behind 1 drafts: NO_CANDIDATE"):
        banned.raise_for_status()


@pytest.mark.parametrize(("drafts", "controls", "said"), [
    ([1], {}, "x has 9 rows, and the sequences have 2, one a draft and one more each; allowed: as many"),
    ([1] * 7 + [1000], {}, "sequence 0: drafts\\[7\\]: drafts is 1000; allowed: below 1000"),
    ([1] * 65, {}, "sequence 0: it has 65 drafts; allowed: up to 64"),
    ([1] * 8, {"mode": "greedy"}, "mode is greedy; allowed: match, rejection, typical"),
    ([1] * 8, {"parents": [0, 2, 0, 0, 0, 0, 0, 0]}, "parents\\[1\\]: parents is 2; allowed: 0 to 1"),
    ([1] * 8, {"parents": [0] * 8, "mode": "typical"}, "parents stands in a sequence of mode typical; allowed: with match only"),
    ([1] * 8, {"typical_delta": 0.5}, "typical_delta stands in a sequence of mode match"),
    ([1] * 8, {"typical_delta": 0, "mode": "typical"}, "typical_delta is 0; allowed: above 0, up to 1"),
    ([1] * 8, {"distributions": [{1: 5}] + [None] * 7}, "distributions stands in a sequence of mode match"),
    ([1] * 8, {"mode": "rejection", "distributions": [None]}, "distributions has 1 for 8 drafts; allowed: none, or one a draft"),
    ([1] * 8, {"mode": "rejection", "distributions": [{1: 0}] * 8}, "distributions\\[0\\]: sparse.weights: weights has the sum 0"),
    ([1] * 8, {"mode": "rejection", "distributions": np.zeros((8, 9), np.float32)}, "probabilities has 9; allowed: 1000"),
    ([1] * 8, {"mode": "rejection", "distributions": logitd.DraftLogits(X[:8].astype(np.float32))}, "has rows of 1000 f32 logits; allowed: as x has them"),
    ([1] * 8, {"mode": "rejection", "distributions": logitd.DraftLogits(X[:8], mirostat_tau=3)}, "mirostat_tau is 3, in a sequence to be verified"),
    ([1] * 8, {"mode": "rejection", "distributions": logitd.DraftLogits(X[:8], logprobs="raw")}, "allowed without logprobs"),
    ([1] * 8, {"draws": 2}, "sequence 0: draws is 2, in a sequence to be verified; allowed: its default"),
    ([1] * 8, {"draft": True}, "sequence 0: draft is true"),
    ([1] * 8, {"position": 2**64 - 3}, "position is 18446744073709551613, and 8 tokens follow"),
    ([1] * 8, {"on_invalid_row": "status"}, "on_invalid_row is status; allowed: refuse"),
    ([[1] * 7, []], {"top_k": [1, 2, 3]}, "top_k has 3 values for 2 sequences; allowed: one for all of them, or one a sequence"),
    ([[1] * 7, []], {"top_p": [1, 7]}, "sequence 1: top_p is 7"),
    ([1] * 8, {"row_banned_ids": [[1]]}, "row_banned_ids has 1 values for 9 rows"),
])
def test_what_is_wrong_is_refused_by_name(drafts: Any, controls: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        logitd.verify(X, drafts, **controls)


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="there is no control modes \\(did you mean mode\\?\\)"):
        logitd.verify(X[:1], [], modes="match")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="float64; allowed: float32"):
        logitd.verify(X[:2], [1], mode="rejection", distributions=np.zeros((1, 1000)))
