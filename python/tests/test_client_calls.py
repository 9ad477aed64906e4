"""Drafts, beams and evaluations over every plane, against the real binary: what they come to in process."""

import asyncio
import os
from typing import Any

import known
import numpy as np
import pytest
import test_beam_steps
import test_sequences
from known import bits
from test_client import client
from test_evaluate import GRID, SETTINGS, SUMS, rows

import logitd
from logitd import AsyncClient, errors
from logitd.testing import assert_same_bits, logitd_server

__all__ = ["client", "logitd_server"]

pytestmark = pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")

X = np.random.default_rng(3).normal(0, 3, (9, 1000)).astype(np.float16)
Q = np.random.default_rng(4).normal(0, 3, (6, 1000)).astype(np.float16)
# The likeliest tokens of some rows, and others.
LIKELY = X.argmax(axis=1).tolist()
DRAFTS = [[LIKELY[0], 4], [LIKELY[2]], [6, 7, 8]]
# Everything at once: a way of every kind to say what drafts were drawn from, histories, bans of rows, and what is asked for.
VERIFY: dict[str, Any] = {
    "mode": ["rejection", "typical", "rejection"], "typical_delta": [None, 0.9, None], "seed": [1, 2, 3], "position": [0, 70, 5], "temperature": 1.3,
    "distributions": [logitd.DraftLogits(Q[0], temperature=0.9, banned_ids=[1]), {4: 7, 9: 1}, None,
                      None, np.full(1000, 0.001, np.float32), logitd.DraftLogits(Q[1], top_k=50)],
    "prompt": [[1, 2], [], [3]], "repetition_penalty": 1.2, "dry": {"multiplier": 1.0, "breakers": [[3]]}, "row_banned_ids": [[i] for i in range(9)],
    "logprobs": logitd.Logprobs(["raw", "sampled"], top=3, ids=[7]), "return_kept": True,
}
SCORES = [[0, -5 << 30], [-1], [7, 7, 7]]
BEAMS: dict[str, Any] = {"beams": 3, "eos_ids": [3, 9], "temperature": 0.7, "normaliser": "raw", "banned_ids": [[i] for i in range(6)],
                         "repetition_penalty": [1.5, None, None, 1.1, 1.2, 1.3], "output": [1, 2], "min_tokens": 5, "stop_ids": [4]}


def same_sequences(found: logitd.Verified, expected: logitd.Verified) -> None:
    assert found.status.tolist() == expected.status.tolist() and found.seeds.tolist() == expected.seeds.tolist()
    assert found.accepted.tolist() == expected.accepted.tolist() and found.path.tolist() == expected.path.tolist()
    assert found.tokens.tolist() == expected.tokens.tolist() and bits(found.logprobs) == bits(expected.logprobs)
    assert (found.rows is None) == (expected.rows is None)
    if found.rows is not None and expected.rows is not None:
        assert_same_bits(found.rows, expected.rows)
        for of in ("raw", "sampled"):
            one, other = getattr(found.rows, of), getattr(expected.rows, of)
            assert one.top_tokens.tolist() == other.top_tokens.tolist() and bits(one.id_logprobs) == bits(other.id_logprobs)
        assert found.rows.kept_bitmask.tolist() == expected.rows.kept_bitmask.tolist()


def same_groups(found: list[logitd.BeamGroup], expected: list[logitd.BeamGroup]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.status.tolist() == other.status.tolist()
        for name in ("candidates", "running", "finished"):
            assert test_beam_steps.triples(getattr(one, name)) == test_beam_steps.triples(getattr(other, name))


def same_evaluation(found: logitd.Evaluation, expected: logitd.Evaluation) -> None:
    for name in ("groups", "rows", "rows_failed", *SUMS, "row_kept", "row_kept_mass"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.row_logprob is not None and expected.row_logprob is not None
    assert bits(found.row_logprob) == bits(expected.row_logprob)
    for name in ("status", "rank"):
        assert np.array_equal(getattr(found.references, name), getattr(expected.references, name)), name
    assert bits(found.references.entropy) == bits(expected.references.entropy)
    assert found.params.keys() == expected.params.keys() and np.array_equal(found.nll, expected.nll)


def test_every_known_answer(client: logitd.Client) -> None:
    for drafted in known.drafted():
        test_sequences.expect(drafted, client.verify(drafted.rows, drafted.drafts, **drafted.controls))
    for stepped in known.stepped():
        [group] = client.beam_step(stepped.rows, stepped.scores, **stepped.controls)
        test_beam_steps.expect(stepped, group)


def test_sequences_are_the_same_to_the_bit(client: logitd.Client) -> None:
    expected = logitd.verify(X, DRAFTS, **VERIFY)
    assert len(set(expected.accepted.tolist())) > 1, "drafts are taken and not taken"
    same_sequences(client.verify(X, DRAFTS, **VERIFY), expected)
    tree: dict[str, Any] = {"parents": [[0, 0], None, [0, 1, 0]], "seed": 5}
    same_sequences(client.verify(X, DRAFTS, **tree), logitd.verify(X, DRAFTS, **tree))
    # Memory that the server reads where it lies, and rows of drafts beside it.
    with client.staging((9, 1008), "f16") as staging:
        np.asarray(staging)[:, :1000] = X
        lent = np.asarray(staging)[:, :1000]
        same_sequences(client.verify(lent, DRAFTS, **tree), logitd.verify(X, DRAFTS, **tree))
        same_sequences(client.verify(lent, DRAFTS, **VERIFY), expected)


def test_steps_are_the_same_to_the_bit(client: logitd.Client) -> None:
    expected = logitd.beam_step(X[:6], SCORES, **BEAMS)
    same_groups(client.beam_step(X[:6], SCORES, **BEAMS), expected)
    with client.staging((6, 1000), "f16") as staging:
        np.asarray(staging)[:] = X[:6]
        same_groups(client.beam_step(staging, SCORES, **BEAMS), expected)


def test_searches_are_the_same(client: logitd.Client) -> None:
    def texts(by: Any) -> list[Any]:
        search = logitd.BeamSearch(2, beams=3, eos_ids=[0], max_length=5)
        while search.open:
            search.step(np.stack([test_beam_steps.logits(tokens) for tokens in search.tokens]), by, temperature=0.9)
        return [[(text.tokens.tolist(), text.score) for text in found] for found in search.found]

    assert texts(client) == texts(None)


def test_evaluations_are_the_same_to_the_bit(client: logitd.Client) -> None:
    x, references = rows()
    x[3, 5] = np.nan
    groups = np.arange(12) % 3
    expected = logitd.evaluate(x, references, **GRID, groups=groups, rows=True, tail_share=0.01)
    same_evaluation(client.evaluate(x, references, **GRID, groups=groups, rows=True, tail_share=0.01), expected)
    listed = logitd.evaluate(x, references, SETTINGS, rows=True)
    same_evaluation(client.evaluate(x, references, SETTINGS, rows=True), listed)
    padded = np.pad(x, ((0, 0), (0, 8)))
    same_evaluation(client.evaluate(padded, references, SETTINGS, rows=True, vocab_size=700), listed)
    with client.staging(padded.shape, "f16") as staging:
        # Rows with padding between them cannot be told: they are copied.
        np.asarray(staging)[:] = padded
        same_evaluation(client.evaluate(np.asarray(staging)[:, :700], references, SETTINGS, rows=True), listed)
        whole = logitd.evaluate(padded, references, SETTINGS, rows=True)
        same_evaluation(client.evaluate(staging, references, SETTINGS, rows=True), whole)
    with pytest.raises(errors.Error, match="sets is 499000; this server allows 65536 \\(--evaluate-sets-max\\)"):
        client.evaluate(x, references, temperature=np.linspace(0.1, 2, 1000), top_k=range(1, 500))


@pytest.mark.parametrize("plane", ["auto", "inline", "shared_memory"])
def test_coroutines_say_the_same(plane: Any, logitd_server: logitd.Server) -> None:
    connection = AsyncClient(logitd_server.target, plane=plane, timeout=60)
    x, references = rows()

    async def work() -> None:
        for _ in range(2):
            verified, groups, found = await asyncio.gather(
                connection.verify(X, DRAFTS, **VERIFY),
                connection.beam_step(X[:6], SCORES, **BEAMS),
                connection.evaluate(x, references, **GRID, rows=True),
            )
            same_sequences(verified, logitd.verify(X, DRAFTS, **VERIFY))
            same_groups(groups, logitd.beam_step(X[:6], SCORES, **BEAMS))
            same_evaluation(found, logitd.evaluate(x, references, **GRID, rows=True))
        async with connection.staging((9, 1000), "f16") as staging:
            np.asarray(staging)[:] = X
            same_sequences(await connection.verify(staging, DRAFTS, seed=5), logitd.verify(X, DRAFTS, seed=5))
        with pytest.raises(ValueError, match="x has 9 rows, and the sequences have 2"):
            await connection.verify(X, [1])

    asyncio.run(work())


def test_nothing_comes_of_no_rows(client: logitd.Client) -> None:
    none, no_lists = X[:0], np.zeros((0, 2), np.int64)
    assert len(client.sample(none)) == 0
    same_sequences(client.verify(none, no_lists), logitd.verify(none, no_lists))
    assert client.beam_step(none, no_lists, beams=2) == logitd.beam_step(none, no_lists, beams=2) == []
    found = client.evaluate(none, [], [{"temperature": 0.5}])
    assert found.rows.tolist() == logitd.evaluate(none, [], [{"temperature": 0.5}]).rows.tolist() == []


def test_nothing_comes_of_no_rows_in_coroutines(logitd_server: logitd.Server) -> None:
    none, no_lists = X[:0], np.zeros((0, 2), np.int64)
    connection = AsyncClient(logitd_server.target, timeout=60)

    async def work() -> None:
        for _ in range(2):
            assert len(await connection.sample(none)) == 0
            same_sequences(await connection.verify(none, no_lists), logitd.verify(none, no_lists))
            assert await connection.beam_step(none, no_lists, beams=2) == []
            assert (await connection.evaluate(none, [], [{"temperature": 0.5}])).rows.tolist() == []
            # Connected from here on.
            await connection.info()

    asyncio.run(work())
