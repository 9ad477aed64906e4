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

# Who asks for nothing else needs no history, and it is not copied from step to step.
WITHOUT_HISTORY = frozenset(
    ["temperature", "top_k", "top_p", "min_p", "seed", "position", "draws", "draw_rule",
     "allowed_bitmask", "allowed_ids", "banned_ids", "logit_bias", "counts"]
)


class Samples(Protocol):
    """A `Sampler` or a `Client`."""

    def sample(self, x: Any, /, **controls: Unpack[Controls]) -> Results: ...


class Steps:
    """The steps of one generation; `results` has what each of them drew."""

    def __init__(self, sampler: Samples | None, controls: Mapping[str, Any]):
        self.results: list[Results] = []
        self._sample: Callable[..., Results] = sample_here if sampler is None else sampler.sample
        self._controls = dict(controls)
        first = self._controls.pop("position", None)
        self._first_position = np.asarray(0 if first is None else first, np.uint64)

    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """The seed of each sequence: that of the first step, where one may have been chosen."""
        return self.results[0].seeds

    def draw(self, x: Any, history: Callable[[], Mapping[str, Any]], further: Mapping[str, Any]) -> Results:
        """Draws the next token of each sequence; `further` controls are for this step alone."""
        controls = self._controls | dict(further)
        if not WITHOUT_HISTORY.issuperset(controls):
            controls = dict(history()) | controls
        if self.results:
            controls["seed"] = self.seeds
        controls["position"] = self._first_position + np.uint64(len(self.results))
        results = self._sample(x, **controls).raise_for_status()
        self.results.append(results)
        return results
