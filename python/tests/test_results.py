"""What comes out."""

import math
import pickle

import numpy as np
import pytest

import logitd

NAN, INF = math.nan, math.inf


def test_rows_without_a_token_say_why_and_leave_others_alone() -> None:
    x = np.array([[1, 2, 3], [1, NAN, 3], [1, INF, 3], [-INF] * 3, [3, 2, 1]], np.float16)
    results = logitd.sample(x, temperature=0, seed=1)
    assert results.tokens.tolist() == [2, -1, -1, -1, 0]
    assert [logitd.Status(status).name for status in results.status] == ["OK", "NAN", "POSITIVE_INFINITY", "NO_CANDIDATE", "OK"]
    assert np.isnan(results.logprobs).tolist() == [False, True, True, True, False]
    assert results.kept.tolist() == [1, 0, 0, 0, 1]
    assert results.kept_mass.tolist() == [2**40, 0, 0, 0, 2**40]
    with pytest.raises(logitd.RowError, match=r"row 1 has no token: NAN \(and 2 more\)"):
        results.raise_for_status()
    assert issubclass(logitd.RowError, ValueError)
    with pytest.raises(logitd.RowError, match="row 0 has no token: NO_CANDIDATE$"):
        logitd.sample(x[0], allowed_ids=[1], banned_ids=[1]).raise_for_status()
    good = logitd.sample(x[:1])
    assert good.raise_for_status() is good


def test_shapes_and_types() -> None:
    x = np.zeros((3, 40), np.float32)
    results = logitd.sample(x, draws=[2, 5, 1], seed=7)
    assert results.draws.shape == results.draw_logprobs.shape == (3, 5)
    assert (results.draws >= 0).sum(axis=1).tolist() == [2, 5, 1]
    assert (results.draws[:, 0] == results.tokens).all()
    assert (np.isnan(results.draw_logprobs) == (results.draws < 0)).all()
    types = {name: getattr(results, name).dtype.name for name in ["tokens", "logprobs", "seeds", "status", "kept", "kept_mass", "draws", "draw_logprobs"]}
    assert types == {"tokens": "int64", "logprobs": "float32", "seeds": "uint64", "status": "uint8", "kept": "uint32", "kept_mass": "uint64", "draws": "int64", "draw_logprobs": "float32"}
    assert len(results) == 3
    assert repr(results) == f"Results(rows=3, failed=0, tokens={results.tokens})"
    # Arrays are the caller's own.
    results.tokens[0] = 1234
    assert results.tokens[0] == 1234


def test_the_types_of_the_package_cannot_be_made_or_stored_by_accident() -> None:
    with pytest.raises(TypeError):
        logitd.Results()
    with pytest.raises(TypeError):
        pickle.dumps(logitd.Sampler(threads=1))
