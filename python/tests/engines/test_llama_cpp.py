"""Gemma 3 270M generates in llama.cpp, and logitd draws its tokens."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (CI_LONG=1 installs it)")

import logitd  # noqa: E402
from logitd.llama_cpp import generate, logits  # noqa: E402
from logitd.testing import logitd_server  # noqa: E402

__all__ = ["logitd_server"]

RULES = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}


@pytest.fixture(scope="module")
def gemma(gguf: pathlib.Path) -> Iterator[llama_cpp.Llama]:
    # One thread: sums have one order.
    llama = llama_cpp.Llama(str(gguf), n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False)
    yield llama
    llama.close()


@pytest.fixture(scope="module")
def prompt(gemma: llama_cpp.Llama) -> list[int]:
    return gemma.tokenize(b"Once upon a time, in a small village by the sea, there lived")


def tokens(*arguments: object, **controls: object) -> list[int]:
    return [drawn.token for drawn in generate(*arguments, max_tokens=24, **controls)]


class Recorder:
    """Samples, and keeps the logits of each step."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def sample(self, x: np.ndarray, **controls: object) -> logitd.Results:
        self.rows.append(x.copy())
        return logitd.sample(x, **controls)


def test_greedy_is_that_of_llama_cpp(gemma: llama_cpp.Llama, prompt: list[int]) -> None:
    ours = tokens(gemma, prompt, temperature=0)
    gemma.reset()
    theirs = gemma.generate(prompt, temp=0, reset=False)
    assert ours == [next(theirs) for _ in ours]


def test_the_same_seed_is_the_same_text(gemma: llama_cpp.Llama, prompt: list[int]) -> None:
    first = list(generate(gemma, prompt, max_tokens=24, seed=7, **RULES))
    print(gemma.detokenize([drawn.token for drawn in first]).decode())
    assert len(first) == 24 and {drawn.seed for drawn in first} == {7}
    assert list(generate(gemma, prompt, max_tokens=24, seed=7, **RULES)) == first
    assert tokens(gemma, prompt, seed=8, **RULES) != [drawn.token for drawn in first]
    # A seed that was left out is one for the whole text, and replays it.
    free = list(generate(gemma, prompt, max_tokens=24, **RULES))
    seed, = {drawn.seed for drawn in free}
    assert list(generate(gemma, prompt, max_tokens=24, seed=seed, **RULES)) == free


def test_logits_are_not_copied(gemma: llama_cpp.Llama, prompt: list[int]) -> None:
    gemma.reset()
    gemma.eval(prompt)
    row = logits(gemma)
    assert row.shape == (262_144,) and row.dtype == np.float32 and not row.flags.owndata
    before = row.copy()
    gemma.eval([int(row.argmax())])
    # The same memory, written anew.
    assert logits(gemma).ctypes.data == row.ctypes.data and (row != before).any()


def test_positions_follow_on_each_other(gemma: llama_cpp.Llama, prompt: list[int]) -> None:
    drawn = tokens(gemma, prompt, seed=7, **RULES)
    recorder = Recorder()
    rest = tokens(gemma, prompt + drawn[:10], seed=7, position=10, sampler=recorder, **RULES)
    assert len(rest) == 24
    for position, (row, token) in enumerate(zip(recorder.rows, rest, strict=True), start=10):
        assert logitd.sample(row, seed=7, position=position, **RULES).tokens.tolist() == [token]
    # The prompt was read in another batch, which moves the logits a little, so no equality is promised here.
    same = sum(a == b for a, b in zip(drawn[10:], rest))
    print(f"{same} of {len(drawn) - 10} tokens are those of the first text")


def test_history_and_steps(gemma: llama_cpp.Llama, prompt: list[int]) -> None:
    drawn = tokens(gemma, prompt, temperature=0, no_repeat_ngram=1)
    assert len({*prompt, *drawn}) == len(set(prompt)) + len(drawn)
    forced = tokens(gemma, prompt, each_step=lambda output: {"allowed_ids": [500 + len(output)]})
    assert forced == list(range(500, 524))


def test_where_a_text_ends(gemma: llama_cpp.Llama, prompt: list[int]) -> None:
    end = gemma.token_eos()
    assert tokens(gemma, prompt, allowed_ids=[end]) == []
    room = gemma.n_ctx() - len(prompt)
    assert len(list(generate(gemma, prompt, temperature=0, banned_ids=[end]))) == room + 1


@pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary")
def test_a_server_draws_the_same(gemma: llama_cpp.Llama, prompt: list[int], logitd_server: logitd.Server) -> None:
    client = logitd.Client(logitd_server.target, timeout=60)
    assert tokens(gemma, prompt, seed=7, sampler=client, **RULES) == tokens(gemma, prompt, seed=7, **RULES)
