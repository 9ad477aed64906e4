"""Beam search of transformers, step for step beside steps of logitd over the same logits.

transformers adds up log-probabilities in f32, and takes any of equal ones; scores of logitd are integers, and equal ones
have an order. What differs for that is told apart from what must not differ, and counted.
"""

import itertools
import json
import os
import pathlib
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (CI_LONG=1 installs it)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (CI_LONG=1 installs it)")

VOCAB_SIZE = 97
PROMPTS = [[1, 2, 3], [50, 4, 17], [90, 90, 8]]
MAX_LENGTH = 12
# Scores are in units of so many in a nat.
NAT = 2**32
# Sums of a dozen f32 of this size are not more exact.
ROUNDING = 2e-5
EARLY_STOPPING = {True: "when_full", False: "when_unlikely", "never": "never"}

Text = tuple[int, ...]


class Engine:
    """A small model of random weights, and what its beam searches did.

    With `step`, its logits are multiples of that, so that many are equal.
    """

    def __init__(self, step: float | None = None) -> None:
        self.step = step
        # Threads that wait for each other are slow where other processes compute too.
        torch.set_num_threads(1)
        torch.manual_seed(20)
        config = transformers.GPT2Config(
            vocab_size=VOCAB_SIZE, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4,
            bos_token_id=None, eos_token_id=None, use_cache=False,
        )
        self.model = transformers.GPT2LMHeadModel(config).eval()
        self.logits: dict[Text, np.ndarray] = {}
        self.computed = 0
        self.model.register_forward_hook(self._remember, with_kwargs=True)
        self._top, self.model._get_top_k_continuations = self.model._get_top_k_continuations, self._note_candidates
        self._update, self.model._update_finished_beams = self.model._update_finished_beams, self._note_ends
        self._go_on = self.model._get_running_beams_for_next_iteration
        self.model._get_running_beams_for_next_iteration = self._note_running
        self.steps: list[dict[str, Any]] = []

    def _remember(self, _module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self.step:
            output.logits = torch.round(output.logits / self.step) * self.step
        last = output.logits[:, -1].to(torch.float32).numpy()
        for ids, row in zip(kwargs["input_ids"].tolist(), last):
            self.logits.setdefault(tuple(ids), row.copy())
        return output

    def _note_candidates(self, **kwargs: Any) -> Any:
        scores, sequences, beams = self._top(**kwargs)
        end = kwargs["cur_len"] + 1
        self.steps.append({"scores": scores.tolist(), "texts": sequences[:, :, :end].tolist()})
        return scores, sequences, beams

    def _note_running(self, **kwargs: Any) -> Any:
        # A choice of its own: of equal ones it may take others than come first.
        sequences, scores, beams = self._go_on(**kwargs)
        end = len(self.steps[-1]["texts"][0][0])
        self.steps[-1]["running"] = [
            [(tuple(text), score) for text, score in zip(*both)]
            for both in zip(sequences[:, :, :end].tolist(), scores.tolist())
        ]
        return sequences, scores, beams

    def _note_ends(self, **kwargs: Any) -> Any:
        ends = kwargs["next_token_hits_stopping_criteria"] & kwargs["top_num_beam_mask"][None, :]
        self.steps[-1]["finished"] = ends.tolist()
        return self._update(**kwargs)

    def search(self, **options: Any) -> Any:
        self.steps = []
        ids = torch.tensor(PROMPTS)
        return self.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=False, max_new_tokens=MAX_LENGTH,
            pad_token_id=0, return_dict_in_generate=True, output_scores=True,
            num_return_sequences=options["num_beams"], **options,
        )

    def row(self, text: Text) -> np.ndarray:
        """The logits behind a text: those that a search of transformers had, where it came by."""
        if text not in self.logits:
            self.computed += 1
            with torch.no_grad():
                self.model(input_ids=torch.tensor([text]))
        return self.logits[text]


def steps_of_logitd(engine: Engine, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the example says, which is given the rows that it asks for."""
    program = pathlib.Path(os.environ["LOGITD"]).parent / "examples" / "beam_search"
    assert program.exists(), f"{program} is not there: cargo build --release --example beam_search"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        asked = None
        for line in process.stdout:
            said = json.loads(line)
            if "rows" in said:
                asked = said["rows"]
                for group in asked:
                    for beam in group["beams"]:
                        text = (*PROMPTS[group["group"]], *beam["tokens"])
                        process.stdin.write(engine.row(text).astype("<f4").tobytes())
                process.stdin.flush()
            elif "steps" in said:
                yield {"asked": asked, "steps": said["steps"]}
            else:
                yield said
    assert process.returncode == 0


def alike(theirs: list[tuple[Text, float]], ours: list[tuple[Text, float]], last: float) -> str:
    """Whether these are the same texts in the same order, or why not.

    Both are sorted by their scores, of which `last` is the least that was enough.
    """
    if [text for text, _ in theirs] == [text for text, _ in ours]:
        return "same"
    scores = dict(ours)
    # A text that only one has must be as good as the last, within rounding; of others the order may differ as far.
    for text, score in theirs:
        if text not in scores and score - last > ROUNDING:
            return f"only transformers has {text}: {score}, and the last has {last}"
    known = dict(theirs)
    for text, score in ours:
        if text not in known and score - last > ROUNDING:
            return f"only logitd has {text}: {score}, and the last has {last}"
    in_order = [scores[text] for text, _ in theirs if text in scores]
    if any(later - earlier > ROUNDING for earlier, later in itertools.pairwise(in_order)):
        return f"another order: {theirs} {ours}"
    tied = len({score for _, score in theirs}) < len(theirs)
    return "equal in f32" if tied else "within rounding"


def compare(
    engine: Engine, beams: int, early_stopping: Any, length_penalty: float, eos: list[int], min_length: int
) -> Counter[str]:
    theirs = engine.search(
        num_beams=beams, early_stopping=early_stopping, length_penalty=length_penalty, eos_token_id=eos or None,
        min_new_tokens=min_length or None,
    )
    request = {
        "vocab_size": VOCAB_SIZE, "beams": beams, "eos_ids": eos, "max_length": MAX_LENGTH, "min_length": min_length,
        "length_penalty": length_penalty, "early_stopping": EARLY_STOPPING[early_stopping], "groups": len(PROMPTS),
    }
    counts: Counter[str] = Counter()
    said = list(steps_of_logitd(engine, request))
    parted: set[int] = set()
    for number, (step, hf) in enumerate(zip(said, engine.steps)):
        for asked, found in zip(step["asked"], step["steps"]):
            group = asked["group"]
            if group in parted:
                continue
            texts = [(*PROMPTS[group], *beam["tokens"]) for beam in asked["beams"]]
            ours = {
                name: [((*texts[beam], token), score / NAT) for beam, token, score in found[name]]
                for name in ("candidates", "running", "finished")
            }
            candidates = [(tuple(text), score) for text, score in zip(hf["texts"][group], hf["scores"][group])]
            if number + 1 == MAX_LENGTH:
                # Every text ends here.
                running, finished = ours["running"], ours["finished"]
            else:
                finished = [it for it, ends in zip(candidates, hf["finished"][group]) if ends]
                running = hf["running"][group]
            lasts = {"candidates": candidates[-1][1], "running": running[-1][1], "finished": candidates[beams - 1][1]}
            for name, expected in [("candidates", candidates), ("running", running), ("finished", finished)]:
                verdict = alike(expected, ours[name], lasts[name])
                assert verdict in ("same", "equal in f32", "within rounding"), (number, group, name, verdict)
                counts[f"{name}: {verdict}"] += 1
                mine = dict(ours[name])
                for text, score in expected:
                    assert abs(mine.get(text, score) - score) < ROUNDING, (text, score, mine[text])
            both = [("running", running), ("finished", finished)]
            if any({text for text, _ in those} != {text for text, _ in ours[name]} for name, those in both):
                parted.add(group)
    # A search of logitd stops where that of transformers does: the last group is the end of both.
    if not parted:
        assert len(said) - 1 == len(engine.steps)
    for group, found in enumerate(said[-1]["found"]):
        if group in parted:
            counts["texts: of other beams, after a tie"] += 1
            continue
        places = range(group * beams, (group + 1) * beams)
        expected = [
            (text_of(theirs.sequences[i].tolist()[3:], eos), float(theirs.sequences_scores[i])) for i in places
        ]
        # Where fewer were finished, transformers returns beams that are not.
        expected = [it for it in expected if it[1] > -1e8]
        got = [(tuple(text["tokens"]), text["normalised"]) for text in found["texts"]]
        verdict = alike(expected, got, expected[-1][1])
        assert verdict in ("same", "equal in f32", "within rounding"), (group, verdict)
        counts[f"texts: {verdict}"] += 1
        for (_, a), (_, b) in zip(expected, got):
            assert abs(a - b) <= ROUNDING * max(1, abs(b)), (a, b)
    return counts


def text_of(tokens: list[int], eos: list[int]) -> Text:
    ends = [i for i, token in enumerate(tokens) if token in eos]
    return tuple(tokens[: ends[0] + 1 if ends else MAX_LENGTH])


def compared(engine: Engine, capsys: pytest.CaptureFixture[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    ends = [([], 0), ([5], 0), ([5, 40, 77], 0), ([5, 40, 77], 4)]
    settings = itertools.product([2, 4, 7], EARLY_STOPPING, [-0.5, 0.0, 1.0, 2.0], ends)
    for beams, early_stopping, length_penalty, (eos, min_length) in settings:
        counts += compare(engine, beams, early_stopping, length_penalty, eos, min_length)
    with capsys.disabled():
        print(f"\n{dict(sorted(counts.items()))}; rows computed apart: {engine.computed}")
    return counts


def test_every_step_is_that_of_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    counts = compared(Engine(), capsys)
    assert counts["texts: same"] > 400 and counts["candidates: same"] > 3000 and counts["finished: same"] > 3000


def test_where_logits_are_equal_only_the_choice_among_equals_differs(capsys: pytest.CaptureFixture[str]) -> None:
    counts = compared(Engine(step=0.5), capsys)
    assert counts["candidates: same"] > 50 and counts["candidates: equal in f32"] > 200
