"""Trials over text that is known: `logitd.evaluate` of one setting at a time.

`logitd tune` evaluates tens of thousands of settings in the time of a hundred of these, and misses none. This is for
comparing searches, and for spaces that are no grid.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .._evaluate import METRICS, evaluate
from .trials import Failed, Limit, Talk

__all__ = ["GOALS", "Forced"]

# Numbers that are read at a time.
BLOCK = 1 << 20
# What is minimized, and within which limits; as `logitd tune` has them.
GOALS: dict[str, tuple[str, list[Limit]]] = {
    "nll": ("nll", []),
    "safe": ("nll", [Limit("tail", "<=", 0.001)]),
}


class Forced:
    """Rows of logits and the token that came after each."""

    def __init__(self, logits: pathlib.Path, targets: pathlib.Path) -> None:
        self._logits = np.load(logits, mmap_mode="r")
        self._targets = np.load(targets)
        # What they are, whatever the files are called.
        self.digest = _sha256(self._logits, self._targets)
        # What is wrong with them is wrong with every trial.
        self.run({}, None)

    def run(self, params: Mapping[str, Any], _talk: Talk | None) -> Mapping[str, float]:
        """Every metric of a setting."""
        found = evaluate(self._logits, self._targets, [params])
        if not found.rows.sum():
            raise Failed("no row has a token: every one has NaN, +inf or nothing but -inf")
        return {metric: float(found.mean(metric)[0]) for metric in METRICS}  # type: ignore[arg-type]


def _sha256(*arrays: npt.NDArray[Any]) -> str:
    """Of what arrays are and hold, in hex."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, BLOCK):
            digest.update(flat[start : start + BLOCK].tobytes())
    return digest.hexdigest()
