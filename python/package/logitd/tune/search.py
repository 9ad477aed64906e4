"""The search: who suggests, who prunes, and the loop that asks, carries out and tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from .lease import LOST, Leases, give_up
from .space import Axis
from .trials import Failed, Limit, Objective, Pruned, Stopped

__all__ = ["PRUNERS", "SAMPLERS", "Search", "grid_size", "is_lost", "make_pruner", "make_sampler", "need", "shown"]

# What a trial has used, as an attribute: where a parameter is stored otherwise (top_k), this is what counts.
USED = "logitd:used"
ERROR = "logitd:error"
# Between two looks at the trials of others.
WAIT_S = 0.5


class ByNumber(optuna.samplers.BaseSampler):
    """A sampler whose random numbers follow from the seed and the trial's number.

    Workers of one study have one seed and suggest different settings; and a study that was interrupted goes on as it
    would have.
    """

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._current: tuple[int, optuna.samplers.BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
            self._current = trial.number, self._make(seed)
        return self._current[1]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial).after_trial(study, trial, state, values)


class Grid(optuna.samplers.GridSampler):
    """A grid for those who ask and tell: Optuna's own ends the loop of its `optimize`, and fails where there is none."""

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        pass


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # The liar keeps workers apart: what others try just now counts as bad.
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


# By name: what makes one of a seed, and the packages that it needs.
SAMPLERS: dict[str, tuple[Callable[[int], optuna.samplers.BaseSampler] | None, tuple[str, ...]]] = {
    "tpe": (_tpe, ()),
    "gp": (lambda seed: optuna.samplers.GPSampler(seed=seed), ("torch", "scipy")),
    "cmaes": (_cmaes, ("cmaes",)),
    "nsga2": (lambda seed: optuna.samplers.NSGAIISampler(seed=seed), ()),
    "random": (lambda seed: optuna.samplers.RandomSampler(seed=seed), ()),
    "qmc": (None, ("scipy",)),
    "grid": (None, ()),
}
PRUNERS: dict[str, tuple[Callable[[], optuna.pruners.BasePruner], tuple[str, ...]]] = {
    "none": (optuna.pruners.NopPruner, ()),
    "median": (optuna.pruners.MedianPruner, ()),
    "hyperband": (optuna.pruners.HyperbandPruner, ()),
    "wilcoxon": (optuna.pruners.WilcoxonPruner, ("scipy",)),
}


def make_sampler(name: str, seed: int, axes: Sequence[Axis]) -> optuna.samplers.BaseSampler:
    """The sampler of that name."""
    make, packages = SAMPLERS[name]
    need(f"--sampler {name}", packages)
    # These two go through one sequence, the same for all workers.
    if name == "qmc":
        return optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_asynchronous_seeding=False, warn_independent_sampling=False)
    if name == "grid":
        return Grid({axis.name: axis.grid() for axis in axes}, seed=seed)
    assert make is not None
    return ByNumber(make, seed)


def grid_size(axes: Sequence[Axis]) -> int:
    """How many trials a grid has."""
    return int(np.prod([len(axis.grid()) for axis in axes], dtype=object))


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """The pruner of that name."""
    make, packages = PRUNERS[name]
    need(f"--pruner {name}", packages)
    return make()


def need(what: str, packages: Sequence[str]) -> None:
    """Says what to install where a package is not here."""
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise ValueError(f"{what} needs {package}: pip install {' '.join(packages)}") from None


@dataclass
class Search:
    """A search of a study, by this worker and perhaps by others."""

    study: optuna.Study
    axes: Sequence[Axis]
    objective: Objective
    objectives: Sequence[tuple[str, str]]
    limits: Sequence[Limit]
    # Trials of the study in all, whoever carries them out; with each further worker, up to one more.
    trials: int
    jobs: int
    deadline: float | None
    lease_s: float
    told: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    # What became of the trials that were carried out here.
    counts: dict[TrialState, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _errors: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        """Carries out trials until there are enough, the time is over, or somebody sets `stop`."""
        with Leases(self.study, self.lease_s, self.told, self._lock) as leases:
            threads = [threading.Thread(target=self._work, args=(leases,)) for _ in range(self.jobs)]
            for thread in threads:
                thread.start()
            for thread in threads:
                # In turns, so that signals have their handlers run.
                while thread.is_alive():
                    thread.join(timeout=0.2)
        if self._errors:
            raise self._errors[0]

    def _work(self, leases: Leases) -> None:
        try:
            while not self.is_over():
                begun, others = self._next(leases)
                if begun is not None:
                    self._carry_out(*begun, leases)
                elif others:
                    # What they give up is done again here.
                    self.stop.wait(WAIT_S)
                else:
                    return
        except BaseException as error:
            self._errors.append(error)
            self.stop.set()

    def is_over(self) -> bool:
        """Whether no further trial is begun."""
        return self.stop.is_set() or (self.deadline is not None and time.monotonic() > self.deadline)

    def _next(self, leases: Leases) -> tuple[tuple[optuna.Trial, dict[str, Any]] | None, bool]:
        """Another trial with its parameters, if one is wanted; and whether others have trials that may come back.

        One thread at a time, so that they do not all take the last one, and not while one is given up.
        """
        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
            counted = sum(trial.state != TrialState.WAITING and not is_lost(trial) for trial in trials)
            if not is_waiting and counted >= self.trials:
                return None, bool(leases.others())
            trial = self.study.ask()
            leases.hold(trial)
            used = {axis.name: axis.suggest(trial) for axis in self.axes}
            trial.set_user_attr(USED, used)
            return (trial, used), False

    def _carry_out(self, trial: optuna.Trial, used: dict[str, Any], leases: Leases) -> None:
        try:
            self._settle(trial, used, leases)
        except optuna.exceptions.UpdateFinishedTrialError:
            self.told(f"trial {trial.number} has ended already: this worker was taken for dead (--lease)")

    def _settle(self, trial: optuna.Trial, used: dict[str, Any], leases: Leases) -> None:
        try:
            found = self.objective.run(used, _Talk(self, trial))
            values = [_value(found, name) for name, _ in self.objectives]
            excesses = {str(limit): limit.excess(_value(found, limit.name)) for limit in self.limits}
        except Pruned:
            self._tell(trial, leases, TrialState.PRUNED)
        except Failed as failed:
            trial.set_user_attr(ERROR, str(failed))
            self._tell(trial, leases, TrialState.FAIL)
            self.told(f"trial {trial.number} failed: {failed}")
        except Stopped:
            leases.release(trial)
            give_up(self.study, self.study._storage.get_trial(trial._trial_id))
        else:
            for name, number in found.items():
                if name not in dict(self.objectives):
                    trial.set_user_attr(name, number)
            for name, excess in excesses.items():
                trial.set_constraint(name, excess)
            self._tell(trial, leases, TrialState.COMPLETE, values)
            said = ", ".join(f"{name} {value:.6g}" for (name, _), value in zip(self.objectives, values, strict=True))
            self.told(f"trial {trial.number}: {said}; {shown(used)}")

    def _tell(self, trial: optuna.Trial, leases: Leases, state: TrialState, values: list[float] | None = None) -> None:
        leases.release(trial)
        with self._lock:
            # A trial that somebody else has ended stays as it is.
            if self.study.tell(trial, values, state, skip_if_finished=True).state != state:
                raise optuna.exceptions.UpdateFinishedTrialError
            self.counts[state] = self.counts.get(state, 0) + 1


@dataclass
class _Talk:
    """What a trial tells its search."""

    search: Search
    trial: optuna.Trial

    def report(self, step: int, numbers: Mapping[str, float]) -> None:
        if step < 0:
            raise Failed(f"step is {step}; allowed: whole numbers from 0")
        # Optuna has no steps of several objectives, and one value a step.
        name = self.search.objectives[0][0]
        if len(self.search.objectives) == 1 and np.isfinite(numbers.get(name, np.nan)):
            self.trial.report(numbers[name], step)
            if self.trial.should_prune():
                raise Pruned

    def look(self) -> None:
        if self.search.is_over():
            raise Stopped


def _value(found: Mapping[str, float], name: str) -> float:
    if name not in found:
        raise Failed(f"the result has no number {name!r}; it has: {', '.join(found) or 'none'}")
    if not np.isfinite(found[name]):
        raise Failed(f"{name} is {found[name]}; allowed: finite numbers")
    return found[name]


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the trial was given up, and counts for nothing."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get(LOST))


def shown(params: Mapping[str, Any]) -> str:
    """Parameters as one reads them."""
    return ", ".join(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items())
