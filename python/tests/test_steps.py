"""The loops of engines, with a model that is none: what they refuse, and what they hand over."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import logitd
import logitd.llama_cpp
from logitd import _native
from logitd._steps import OF_HISTORY, Steps
from logitd.llama_cpp import Drawn, generate

V = 40
END = V - 1
PROMPT = [3, 7, 5]


class Llama:
    """Logits that follow from the tokens so far, in a context of 8."""

    model = None

    def __init__(self) -> None:
        self.ctx = self
        self.read: list[int] = []
        self.row = np.zeros(V, np.float32)

    def n_ctx(self) -> int:
        return 8

    def n_vocab(self) -> int:
        return V

    def reset(self) -> None:
        self.read.clear()

    def eval(self, tokens: Sequence[int]) -> None:
        self.read += tokens
        self.row[:] = np.random.default_rng(self.read).normal(0, 2, V)
        self.row[END] = -np.inf


@pytest.fixture(autouse=True)
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        llama_model_get_vocab=lambda model: None,
        llama_vocab_is_eog=lambda vocab, token: token == END,
    )
    monkeypatch.setattr(logitd.llama_cpp, "_llama_cpp", lambda: module)
    monkeypatch.setattr(logitd.llama_cpp, "logits", lambda llama: llama.row)


def drawn(**options: Any) -> list[Drawn]:
    return list(generate(Llama(), PROMPT, **options))


def test_what_is_asked_for_beside_tokens_is_there() -> None:
    tokens = drawn(seed=7, max_tokens=4, temperature=0.9, logprobs="raw", return_kept=True, draws=3, top_k=9)
    assert len(tokens) == 4
    for step, one in enumerate(tokens):
        assert one.token == one.results.tokens[0] == one.results.draws[0, 0] and one.results.draws.shape == (1, 3)
        assert one.results.raw.ranks[0] > 0 and one.results.kept_ids[0] is not None
        row = Llama()
        row.eval(PROMPT + [before.token for before in tokens[:step]])
        assert one.token == logitd.sample(row.row, seed=7, position=step, temperature=0.9, top_k=9).tokens[0]
    assert tokens == drawn(seed=7, max_tokens=4, temperature=0.9, top_k=9)


def test_a_seed_that_is_left_out_is_one_for_the_whole_text() -> None:
    tokens = drawn()
    seed, = {one.seed for one in tokens}
    # As many as there is room for: those behind the prompt, and one that is not read any more.
    assert len(tokens) == 8 - len(PROMPT) + 1
    assert tokens == drawn(seed=seed) != drawn(seed=seed ^ 1)


def test_the_history_is_that_of_the_text() -> None:
    tokens = [one.token for one in drawn(temperature=0, no_repeat_ngram=1)]
    assert len({*PROMPT, *tokens}) == len(PROMPT) + len(tokens)
    seen: list[list[int]] = []

    def each_step(output: Sequence[int]) -> dict[str, Any]:
        seen.append(list(output))
        return {"bad_words": [[output[-1], token] for token in range(30)]} if output else {}

    tokens = [one.token for one in drawn(temperature=0, each_step=each_step)]
    assert seen == [tokens[:i] for i in range(len(tokens))] and all(token >= 30 for token in tokens[1:])


def test_every_control_is_known_to_need_a_history_or_not() -> None:
    without = {
        "temperature", "top_k", "top_p", "min_p", "seed", "position", "draws", "draw_rule", "draft", "dry_base", "dry_allowed_length",
        "dry_last_n", "allowed_bitmask", "allowed_ids", "banned_ids", "stop_ids", "logit_bias", "counts", "dry_breakers",
        "prompt", "output", "output_length", "history", "logprobs", "return_kept", "vocab_size", "on_invalid_row",
        "profile", "top_n_sigma", "top_h", "top_a", "epsilon_cutoff", "eta_cutoff", "typical_p", "mirostat_tau", "mirostat_eta", "mirostat_mu",
        "xtc_probability", "xtc_threshold", "adaptive_target", "adaptive_decay", "adaptive_sum", "adaptive_weight", "dynatemp_range",
        "dynatemp_exponent",
    }
    known = {field["name"] for field in logitd.fields()} | {*_native.ADJUSTMENTS, *_native.OPTIONS, "dry"}
    assert known - without == OF_HISTORY and not without & OF_HISTORY


def refused() -> Iterator[tuple[dict[str, Any], str]]:
    for name in ["history", "prompt", "output", "output_length"]:
        yield {name: [1]}, f"{name} cannot be given here: the history is that of the sequences"
        yield {"each_step": lambda output, name=name: {name: [1]}}, f"{name} cannot be given here: the history"
    for name in ["seed", "position"]:
        yield {"each_step": lambda output, name=name: {name: 1}}, f"{name} cannot be given here: a sequence has one seed"
    yield {"max_tokens": -1}, "max_tokens is -1; allowed: 0 or more"


@pytest.mark.parametrize(("options", "said"), list(refused()))
def test_what_cannot_be_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        drawn(**options)


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_read() -> None:
    llama = Llama()
    for count in [0, 9, 100]:
        with pytest.raises(ValueError, match=rf"tokens has {count} tokens; allowed: 1 to 8, .*Llama\(n_ctx=..\)"):
            generate(llama, [1] * count)
    assert llama.read == []
    assert len(list(generate(llama, [1] * 8))) == 1 and len(list(generate(llama, [1], max_tokens=0))) == 0


def test_there_is_no_seed_before_the_first_step() -> None:
    steps = Steps(None, {"position": [5, 6]})
    with pytest.raises(ValueError, match="no token is drawn yet"):
        steps.seeds
    x = np.zeros((2, V), np.float32)
    for step in range(3):
        found = steps.draw(x, dict, {})
        expected = logitd.sample(x, seed=steps.seeds, position=[5 + step, 6 + step])
        assert found.tokens.tolist() == expected.tokens.tolist()
