#!/usr/bin/env python3
"""The best sampling parameters for a text, searched with the tool that is at hand: each over the same `logitd.evaluate`.

    pip install scikit-learn hyperopt optuna    # beside the wheel of this repository
    python find_parameters.py --logits rows.npy --targets next.npy --by sklearn-grid

`rows.npy` has logits, `[rows, vocab_size]`, and `next.npy` the token that came after each. What is minimized is nll, with a
tail of at most 0.001. Sets that are known beforehand go into one call, which reads each row once; a search that wants to
hear of one set before it names the next reads them once a set. `logitd tune` does the first for a grid of 35,280.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import logitd
import logitd.tune

TAIL_MAX = 0.001
# 0 is off.
GRID = {
    "temperature": [0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4],
    "top_k": [20, 100, 500, 1000, 0],
    "top_p": [0.9, 0.95, 0.98, 1.0],
    "min_p": [0.0, 0.002, 0.02],
}

Sets = list[dict[str, Any]]
# What sets come to: nll, plus what is beyond the limit, dearly.
Costs = Callable[[Sets], list[float]]


def costs_of(logits: np.ndarray, targets: np.ndarray) -> Costs:
    def costs(sets: Sets) -> list[float]:
        found = logitd.evaluate(logits, targets, sets)
        beyond = np.maximum(found.tail - TAIL_MAX, 0.0)
        costs: list[float] = (found.nll + 1000.0 * beyond).tolist()
        return costs

    return costs


def best_of(sets: Sets, costs: Costs) -> dict[str, Any]:
    return sets[int(np.argmin(costs(sets)))]


def by_sklearn_grid(costs: Costs, _trials: int, _seed: int) -> dict[str, Any]:
    from sklearn.model_selection import ParameterGrid

    return best_of(list(ParameterGrid(GRID)), costs)


def by_sklearn_random(costs: Costs, trials: int, seed: int) -> dict[str, Any]:
    from scipy.stats import loguniform, randint, uniform
    from sklearn.model_selection import ParameterSampler

    axes = {"temperature": uniform(0.5, 1.2), "top_k": randint(10, 2000), "top_p": uniform(0.8, 0.2), "min_p": loguniform(1e-4, 0.1)}
    return best_of(list(ParameterSampler(axes, trials, random_state=seed)), costs)


def by_hyperopt(costs: Costs, trials: int, seed: int) -> dict[str, Any]:
    from hyperopt import fmin, hp, space_eval, tpe

    space = {
        "temperature": hp.uniform("temperature", 0.5, 1.7),
        # Off is a choice of its own: as a number it would be the neighbour of 1.
        "top_k": hp.choice("top_k", [0, hp.uniformint("k", 10, 2000)]),
        "top_p": hp.uniform("top_p", 0.8, 1.0),
        "min_p": hp.loguniform("min_p", np.log(1e-4), np.log(0.1)),
    }
    found = fmin(lambda set: costs([set])[0], space, tpe.suggest, trials, rstate=np.random.default_rng(seed), show_progressbar=False)
    return {name: float(value) if name != "top_k" else int(value) for name, value in space_eval(space, found).items()}


def by_optuna(costs: Costs, trials: int, seed: int) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True))
    best: tuple[float, dict[str, Any]] = (float("inf"), {})
    # Some at a time, since a call of many sets costs little more than one of one.
    for begin in range(0, trials, 8):
        asked = [study.ask() for _ in range(min(8, trials - begin))]
        sets = [logitd.tune.suggest(trial, temperature=(0.5, 1.7), top_k=(10, 1000), top_p=(0.8, 1.0), min_p=(0.0, 0.1)) for trial in asked]
        for trial, set, cost in zip(asked, sets, costs(sets), strict=True):
            study.tell(trial, cost)
            best = min(best, (cost, set), key=lambda pair: pair[0])
    return best[1]


WAYS = {"sklearn-grid": by_sklearn_grid, "sklearn-random": by_sklearn_random, "hyperopt": by_hyperopt, "optuna": by_optuna}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--targets", required=True)
    parser.add_argument("--by", choices=WAYS, required=True)
    parser.add_argument("--trials", type=int, default=64, help="of the searches that have no grid (64)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logits, targets = np.load(args.logits, mmap_mode="r"), np.load(args.targets)
    best = WAYS[args.by](costs_of(logits, targets), args.trials, args.seed)
    found = logitd.evaluate(logits, targets, [best])
    said = ", ".join(f"{name} {value:.4g}" for name, value in sorted(best.items()))
    print(f"{args.by}: {said}: nll {found.nll[0]:.3f}, tail {found.tail[0]:.2%}, coverage {found.coverage[0]:.1%}")


if __name__ == "__main__":
    main()
