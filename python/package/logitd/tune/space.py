"""What is searched: parameters, each with an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


class Trial(Protocol):
    """What suggests values: a trial of Optuna's."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """A number from `low` to `high`."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from `low` to `high`."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""


__all__ = ["SAMPLING", "Axis", "Choice", "Real", "TopK", "Whole", "parse", "suggest"]

# What axes without steps have in a grid.
GRID_POINTS = 5
# Digits that a value has: as many as a float32 tells apart.
DIGITS = 7


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, in steps or not, on a logarithmic scale or not."""

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    grid_of: tuple[float, ...] = ()

    def suggest(self, trial: Trial) -> float:
        """A value that the trial suggests, as it is used."""
        value = trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else float(f"{value:.{DIGITS}g}")

    def grid(self) -> list[float]:
        """The values of a grid."""
        if self.grid_of:
            return [value for value in self.grid_of if self.low <= value <= self.high]
        if self.step is not None:
            return [self.low + i * self.step for i in range(int((self.high - self.low) / self.step + 1e-9) + 1)]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        points = [low + (high - low) * i / (GRID_POINTS - 1) for i in range(1, GRID_POINTS - 1)]
        return [self.low, *(map(math.exp, points) if self.log else points), self.high]


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    name: str
    low: int
    high: int
    step: int = 1

    def suggest(self, trial: Trial) -> int:
        return trial.suggest_int(self.name, self.low, self.high, step=self.step)

    def grid(self) -> list[int]:
        return list(range(self.low, self.high + 1, self.step))


@dataclass(frozen=True)
class TopK:
    """top_k from `low` to `high` on a logarithmic scale, at whose upper end, beyond `high`, it is off.

    Off is 0 to everybody else. As a number next to 1, the narrowest cut, it would mislead every sampler that believes in
    neighbours: that 0 stands where 1,000 almost is. Trials are stored as the sampler sees them.
    """

    low: int
    high: int
    name: str = "top_k"

    @property
    def end(self) -> int:
        """What is stored at most: an octave of the axis is off."""
        return 2 * self.high

    def suggest(self, trial: Trial) -> int:
        """A value that the trial suggests, as it is used: 0 is off."""
        stored = trial.suggest_int(self.name, self.low, self.end, log=True)
        return 0 if stored > self.high else stored

    def grid(self) -> list[int]:
        octaves = (self.low * 4**i for i in range(32))
        return [*(k for k in octaves if k < self.high), self.high, self.end]


@dataclass(frozen=True)
class Choice:
    """One of some texts."""

    name: str
    choices: tuple[str, ...]

    def suggest(self, trial: Trial) -> str:
        return trial.suggest_categorical(self.name, list(self.choices))

    def grid(self) -> list[str]:
        return list(self.choices)


Axis: TypeAlias = Real | Whole | TopK | Choice

# The axes of sampling parameters. In steps, so that both ends are reached, where top_p and min_p are off.
SAMPLING: dict[str, Axis] = {
    "temperature": Real("temperature", 0.3, 2.0, 0.01, grid_of=(0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0)),
    "top_k": TopK(1, 1000),
    "top_p": Real("top_p", 0.5, 1.0, 0.005, grid_of=(0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)),
    "min_p": Real("min_p", 0.0, 0.3, 0.005, grid_of=(0.0, 0.01, 0.02, 0.05, 0.1, 0.2)),
}


def suggest(
    trial: Trial,
    *,
    temperature: tuple[float, float] | None = (0.3, 2.0),
    top_k: tuple[int, int] | None = (1, 1000),
    top_p: tuple[float, float] | None = (0.5, 1.0),
    min_p: tuple[float, float] | None = (0.0, 0.3),
) -> dict[str, Any]:
    """Sampling parameters that a trial of Optuna's suggests, as keywords of `logitd.sample`: each within its range.

    None leaves a parameter out. top_k is on a logarithmic axis whose upper end, beyond the range, is off: the dict has 0
    then, the trial a number above the range.
    """
    found: dict[str, Any] = {}
    for name, given in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        if given is not None:
            default = SAMPLING[name]
            assert isinstance(default, Real)
            found[name] = Real(name, *given, default.step).suggest(trial)
    if top_k is not None:
        found["top_k"] = TopK(*top_k).suggest(trial)
    return found


FORMS = "int:LOW:HIGH[:STEP], float:LOW:HIGH[:STEP], log:LOW:HIGH or choice:A,B,.."


def parse(text: str) -> Axis:
    """The axis of `temperature`, `lr=log:1e-5:1e-2`, `layers=int:1:8`, `dropout=float:0:0.5:0.05`, `optimizer=choice:adam,sgd`."""
    name, _, form = text.partition("=")
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError(f"{text!r} is no parameter; allowed: NAME={FORMS}")
    if not form:
        if name in SAMPLING:
            return SAMPLING[name]
        raise ValueError(f"{name!r} has no axis; allowed: {name}={FORMS}, or one of {', '.join(SAMPLING)} by its name")
    kind, _, rest = form.partition(":")
    parts = rest.split(":")
    try:
        if kind == "choice" and len(set(rest.split(","))) == len(rest.split(",")) >= 2:
            return Choice(name, tuple(rest.split(",")))
        if kind == "int" and len(parts) in (2, 3):
            low, high, whole_step = (int(part) for part in (*parts, "1")[:3])
            if low <= high and whole_step >= 1:
                is_top_k = name == "top_k" and low >= 1 and whole_step == 1
                return TopK(low, high) if is_top_k else Whole(name, low, high, whole_step)
        if kind == "float" and len(parts) in (2, 3):
            numbers = [float(part) for part in parts]
            step = numbers[2] if len(numbers) == 3 else None
            if all(map(math.isfinite, numbers)) and numbers[0] <= numbers[1] and (step is None or step > 0):
                return Real(name, numbers[0], numbers[1], step)
        if kind == "log" and len(parts) == 2 and 0 < float(parts[0]) <= float(parts[1]) < math.inf:
            return Real(name, float(parts[0]), float(parts[1]), log=True)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no axis; allowed: {name}={FORMS}, LOW at most HIGH (and above 0 with log), STEP above 0")
