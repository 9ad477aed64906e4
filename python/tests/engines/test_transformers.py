"""Gemma 3 270M generates in transformers, and logitd draws its tokens."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (CI_LONG=1 installs it)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (CI_LONG=1 installs it)")

import logitd  # noqa: E402
from logitd.testing import logitd_server  # noqa: E402
from logitd.transformers import LogitsProcessor, custom_generate  # noqa: E402

__all__ = ["logitd_server"]

TEXTS = ["The capital of France is", "Once upon a time, in a small village by the sea, there lived", "def fibonacci(n):"]
SEEDS = [7, 8, 2**64 - 1]
STEPS = 12


class Gemma:
    def __init__(self, gguf: pathlib.Path):
        # Threads that wait for each other are slow where other processes compute too.
        torch.set_num_threads(1)
        where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(**where, padding_side="left")
        self.model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)

    def inputs(self, *texts: str) -> dict[str, Any]:
        return dict(self.tokenizer(list(texts), return_tensors="pt", padding=True))

    def generate(self, texts: list[str], steps: int = STEPS, **options: Any) -> Any:
        # No end of a text: every sequence has as many tokens.
        return self.model.generate(**self.inputs(*texts), max_new_tokens=steps, min_new_tokens=steps, **options)

    def tokens(self, texts: list[str], **options: Any) -> list[list[int]]:
        """What follows on each text."""
        return self.generate(texts, **options)[:, self.inputs(*texts)["input_ids"].shape[1]:].tolist()


@pytest.fixture(scope="module")
def gemma(gguf: pathlib.Path) -> Iterator[Gemma]:
    yield Gemma(gguf)


def test_greedy_is_that_of_transformers(gemma: Gemma) -> None:
    expected = gemma.tokens(TEXTS, do_sample=False)
    assert gemma.tokens(TEXTS, custom_generate=custom_generate(temperature=0)) == expected
    assert gemma.tokens(TEXTS, do_sample=True, logits_processor=[LogitsProcessor(temperature=0)]) == expected


def test_the_same_seed_is_the_same_text(gemma: Gemma) -> None:
    rules = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
    drawn = gemma.tokens(TEXTS, custom_generate=custom_generate(seed=SEEDS, **rules))
    # What transformers would do itself, before or after, changes nothing.
    own = {"do_sample": True, "temperature": 0.3, "top_k": 2}
    assert gemma.tokens(TEXTS, custom_generate=custom_generate(seed=SEEDS, **rules), **own) == drawn
    assert gemma.tokens(TEXTS, logits_processor=[LogitsProcessor(seed=SEEDS, **rules)], **own) == drawn
    others = gemma.tokens(TEXTS, custom_generate=custom_generate(seed=[1, 2, 3], **rules))
    assert all(a != b for a, b in zip(drawn, others, strict=True))
    print("\n".join(gemma.tokenizer.batch_decode(drawn)))


@pytest.mark.parametrize("rule", ["cumulative", "race"])
def test_alone_or_in_a_batch(gemma: Gemma, rule: str) -> None:
    # Without a repetition penalty padding cannot be seen, and with one it must not be.
    rules = {"temperature": 0.8, "top_k": 50, "draw_rule": rule, "repetition_penalty": 1.2}
    kept = {"return_dict_in_generate": True, "output_scores": True}
    together = gemma.generate(TEXTS, custom_generate=custom_generate(seed=SEEDS, **rules), **kept)
    for row, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True)):
        alone = gemma.generate([text], custom_generate=custom_generate(seed=seed, **rules), **kept)
        prompt = gemma.tokenizer(text).input_ids
        found = [replayed(output, i, prompt, rules | {"seed": seed}) for output, i in [(together, row), (alone, 0)]]
        same = sum(a == b for a, b in zip(*found, strict=True))
        # Logits move with the batch, if only in their last places, so no rule promises all of them.
        print(f"{rule}: {same} of {STEPS} tokens are the same alone")


def replayed(output: Any, row: int, prompt: list[int], rules: dict[str, Any]) -> list[int]:
    """The tokens of a row, each drawn again from the scores that were kept and the text without its padding."""
    drawn: list[int] = output.sequences[row, -STEPS:].tolist()
    for step, scores in enumerate(output.scores):
        again = logitd.sample(scores[row], **rules, position=step, prompt=prompt, output=drawn[:step])
        assert again.tokens.tolist() == [drawn[step]]
    return drawn


def test_scores_and_logprobs_are_kept_and_replay_every_token(gemma: Gemma) -> None:
    rules = {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01}
    output = gemma.generate(
        TEXTS, custom_generate=custom_generate(**rules), return_dict_in_generate=True, output_scores=True)
    drawn = output.sequences[:, -STEPS:]
    assert len(output.scores) == STEPS and output.logprobs.shape == drawn.shape
    assert [results.tokens.tolist() for results in output.results] == drawn.T.tolist()
    # Seeds that were left out came back.
    assert len(set(output.seeds.tolist())) == len(TEXTS)
    for step, scores in enumerate(output.scores):
        again = logitd.sample(scores, **rules, seed=output.seeds, position=step)
        assert again.tokens.tolist() == drawn[:, step].tolist()
        assert again.logprobs.tobytes() == output.logprobs[:, step].tobytes()


def test_history_is_that_of_each_sequence(gemma: Gemma) -> None:
    drawn = gemma.tokens(TEXTS, custom_generate=custom_generate(temperature=0, no_repeat_ngram=1))
    for text, tokens in zip(TEXTS, drawn, strict=True):
        prompt = gemma.tokenizer(text).input_ids
        assert len({*prompt, *tokens}) == len(set(prompt)) + STEPS
    # Frequencies count what was generated, so the first token has no penalty and all later ones do.
    free = gemma.tokens(TEXTS[:1], custom_generate=custom_generate(temperature=0))
    penalized = gemma.tokens(TEXTS[:1], custom_generate=custom_generate(temperature=0, frequency_penalty=100))
    assert free[0][0] == penalized[0][0] and len(set(penalized[0])) == STEPS > len(set(free[0]))


def test_each_step_has_controls_of_its_own(gemma: Gemma) -> None:
    lengths: list[int] = []

    def each_step(input_ids: "torch.Tensor") -> dict[str, Any]:
        lengths.append(input_ids.shape[1])
        return {"allowed_ids": [500 + len(lengths)]}

    drawn = gemma.tokens(TEXTS, steps=4, custom_generate=custom_generate(seed=1, each_step=each_step))
    assert drawn == [[501, 502, 503, 504]] * len(TEXTS)
    assert np.diff(lengths).tolist() == [1, 1, 1]


@pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary")
def test_a_server_draws_the_same(gemma: Gemma, logitd_server: logitd.Server) -> None:
    rules = {"temperature": 0.8, "top_k": 50, "seed": SEEDS}
    client = logitd.Client(logitd_server.target, timeout=60)
    assert gemma.tokens(TEXTS, custom_generate=custom_generate(sampler=client, **rules)) \
        == gemma.tokens(TEXTS, custom_generate=custom_generate(**rules))


def test_what_cannot_be_is_said(gemma: Gemma) -> None:
    processor = LogitsProcessor(seed=1)
    gemma.tokens(TEXTS, steps=2, logits_processor=[processor])
    with pytest.raises(ValueError, match="one call of generate"):
        gemma.tokens(TEXTS, steps=2, logits_processor=[processor])
    with pytest.raises(ValueError, match="num_beams is 3; allowed: 1"):
        gemma.tokens(TEXTS, steps=2, num_beams=3, custom_generate=custom_generate(seed=1))
    with pytest.raises(ValueError, match="temperature is -1"):
        gemma.tokens(TEXTS, steps=2, custom_generate=custom_generate(temperature=-1))
    with pytest.raises(logitd.RowError, match="row 0"):
        LogitsProcessor()(torch.tensor([[1]]), torch.tensor([[0.0, float("nan")]]))
