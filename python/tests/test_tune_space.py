"""`logitd.tune.suggest` and the axes of `--param`, without Optuna."""

from typing import Any

import numpy as np
import pytest

import logitd.tune
from logitd.tune import space


class Fixed:
    """A trial that suggests what it was told to, and notes what it was asked."""

    def __init__(self, **values: Any) -> None:
        self.values, self.asked = values, {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        self.asked[name] = (low, high, step, log)
        return self.values[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = (low, high, step, log)
        return self.values[name]

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.asked[name] = choices
        return self.values[name]


def test_top_k_is_off_at_the_upper_end_of_a_logarithmic_axis() -> None:
    for stored, used in [(1, 1), (1000, 1000), (1001, 0), (2000, 0)]:
        trial = Fixed(temperature=0.7, top_k=stored, top_p=0.9500000000000001, min_p=0.0)
        assert logitd.tune.suggest(trial) == {"temperature": 0.7, "top_p": 0.95, "min_p": 0.0, "top_k": used}
    assert trial.asked == {"temperature": (0.3, 2.0, 0.01, False), "top_k": (1, 2000, 1, True), "top_p": (0.5, 1.0, 0.005, False), "min_p": (0.0, 0.3, 0.005, False)}
    few = Fixed(top_k=70)
    assert logitd.tune.suggest(few, temperature=None, top_k=(5, 64), top_p=None, min_p=None) == {"top_k": 0}
    assert few.asked == {"top_k": (5, 128, 1, True)}


def test_what_is_suggested_can_be_sampled_with() -> None:
    x = np.zeros((1, 50), np.float16)
    found = logitd.tune.suggest(Fixed(temperature=1.37, top_k=2000, top_p=1.0, min_p=0.05))
    assert logitd.sample(x, **found, seed=1).kept.tolist() == [50]


def test_axes_are_read_as_they_are_written() -> None:
    assert space.parse("lr=log:1e-5:1e-2") == space.Real("lr", 1e-5, 1e-2, log=True)
    assert space.parse("dropout=float:0:0.5:0.1") == space.Real("dropout", 0.0, 0.5, 0.1)
    assert space.parse("layers=int:1:8") == space.Whole("layers", 1, 8)
    assert space.parse("optimizer=choice:adam,sgd") == space.Choice("optimizer", ("adam", "sgd"))
    assert space.parse("top_k=int:5:100") == space.TopK(5, 100)
    assert space.parse("temperature") is space.SAMPLING["temperature"]


@pytest.mark.parametrize("text", ["lr", "=int:1:2", "a b=int:1:2", "lr=log:0:1", "lr=log:2:1", "n=int:1.5:2", "n=int:3:2", "n=int:1:3:0", "x=float:0:inf", "x=float:0:1:-1", "x=float:0", "c=choice:a", "c=choice:a,a", "x=normal:0:1"])
def test_axes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: .*int:LOW:HIGH"):
        space.parse(text)


def test_grids_are_within_their_axes_and_reach_off() -> None:
    assert space.parse("x=float:0:1").grid() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert space.parse("n=int:2:8:3").grid() == [2, 5, 8]
    assert np.allclose(space.parse("lr=log:1e-4:1").grid(), [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert space.TopK(5, 100).grid() == [5, 20, 80, 100, 200]
    for name, off in [("temperature", 1.0), ("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)]:
        axis = space.SAMPLING[name]
        used = [axis.suggest(Fixed(**{name: value})) for value in axis.grid()]
        assert off in used and len(set(used)) == len(used) >= 6, name
