"""What a trial is to those who carry it out: numbers by their names, or why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Failed", "Limit", "Objective", "Pruned", "Stopped", "Talk"]


class Failed(Exception):
    """The trial has no result."""


class Pruned(Exception):
    """The pruner has seen enough of it."""


class Stopped(Exception):
    """Somebody wants the search to end."""


class Talk(Protocol):
    """Whom a trial talks to while it goes on."""

    def report(self, step: int, numbers: Mapping[str, float]) -> None:
        """Tells what the trial has come to so far. Raises Pruned where that is enough."""

    def look(self) -> None:
        """Raises Stopped where the search is to end."""


class Objective(Protocol):
    """Something that carries out trials."""

    def run(self, params: Mapping[str, Any], talk: Talk) -> Mapping[str, float]:
        """The numbers that these parameters come to. Raises Failed, Pruned or Stopped where there are none."""


@dataclass(frozen=True)
class Limit:
    """What a number must not be above, or below."""

    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Reads `tail<=0.001` or `coverage>=0.9`."""
        for sign in ("<=", ">="):
            name, found, bound = text.partition(sign)
            try:
                if found and name.strip() and not math.isnan(float(bound)):
                    return cls(name.strip(), sign, float(bound))
            except ValueError:
                break
        raise ValueError(f"{text!r} is no limit; allowed: NAME<=NUMBER, NAME>=NUMBER")

    def excess(self, value: float) -> float:
        """How far beyond the limit a value is: above 0 where it is."""
        return value - self.bound if self.sign == "<=" else self.bound - value

    def __str__(self) -> str:
        # To the last digit: studies tell limits apart by it.
        return f"{self.name}{self.sign}{repr(self.bound).removesuffix('.0')}"


def is_number(value: Any) -> bool:
    """Whether it is a number that a double can hold: True is none, and neither is 10**400."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def numbers_of(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among what was found."""
    return {name: float(value) for name, value in found.items() if is_number(value)}
