"""What the loops of all engines share: a token a step, with the same seeds, at the next position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ._native import sample as sample_here

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._native import Controls, Results

# Who asks for none of these needs no history, and it is not handed over in each step.
OF_HISTORY = frozenset(
    ["repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram", "min_tokens", "dry_multiplier", "dry",
     "bad_words"]
)

# What the loop itself tells in each step.
TOLD = ["history", "prompt", "output", "output_length"]
# What a sequence has from its first step on, and what follows from the number of steps.
FIXED = ["seed", "position"]
# What a step gives to the next, and what there is a state of.
STATES = ["mirostat_mu", "adaptive_sum", "adaptive_weight"]
WITH_STATE = frozenset(["mirostat_tau", "adaptive_target"])


class Samples(Protocol):
    """A `Sampler` or a `Client`."""

    def sample(self, x: Any, /, **controls: Unpack[Controls]) -> Results: ...


class Steps:
    """The steps of one generation."""

    def __init__(self, sampler: Samples | None, controls: Mapping[str, Any]):
        refuse(TOLD, controls, "the history is that of the sequences which are generated")
        self._sample: Callable[..., Results] = sample_here if sampler is None else sampler.sample
        self._controls = dict(controls)
        first = self._controls.pop("position", None)
        self._first_position = np.asarray(0 if first is None else first, np.uint64)
        self._seeds: npt.NDArray[np.uint64] | None = None
        self._count = 0
        self._states: dict[str, Any] = {}

    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """The seed of each sequence: that of the first step, where one may have been chosen."""
        if self._seeds is None:
            raise ValueError("no token is drawn yet: a seed that is left out is chosen with the first one")
        return self._seeds

    def draw(self, x: Any, history: Callable[[], Mapping[str, Any]], further: Mapping[str, Any]) -> Results:
        """Draws the next token of each sequence; `further` controls are for this step alone."""
        refuse(TOLD, further, "the history is that of the sequences which are generated")
        refuse(FIXED, further, "a sequence has one seed, and its position is the number of its tokens; give it once, beside each_step")
        controls = self._controls | self._states | dict(further)
        if not OF_HISTORY.isdisjoint(controls):
            controls |= history()
        if self._seeds is not None:
            controls["seed"] = self._seeds
        controls["position"] = self._first_position + np.uint64(self._count)
        results = self._sample(x, **controls).raise_for_status()
        if self._seeds is None:
            self._seeds = results.seeds
        if not WITH_STATE.isdisjoint(controls):
            self._states = {name: getattr(results, name) for name in STATES}
        self._count += 1
        return results


def refuse(names: list[str], controls: Mapping[str, Any], why: str) -> None:
    """Says which of these controls cannot be given here."""
    for name in names:
        if name in controls:
            raise ValueError(f"{name} cannot be given here: {why}")
