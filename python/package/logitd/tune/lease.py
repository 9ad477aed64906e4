"""Which trials are being carried out, so that those of a worker that died are done again.

A worker renews a number of each trial it carries out, in the trial's own attributes, which every storage of Optuna's has.
(Optuna's heartbeats are for its `optimize` alone, and for databases alone: neither a journal nor its gRPC proxy has them.)
A number that stands still for the time of a lease is nobody's. Clocks are not compared: each worker has seen itself for how long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import optuna
from optuna.trial import FrozenTrial, TrialState

__all__ = ["LEASE", "LOST", "RETRY_OF", "Leases", "give_up"]

# Attributes of trials. No number of a command's is called like them.
LEASE = "logitd:lease"
LOST = "logitd:lost"
RETRY_OF = "logitd:retry_of"
# How often a lease is renewed before it would end.
RENEWALS = 4


class Leases:
    """The leases of this process, and a look at those of others.

    What others have lost is given up under `deciding`: a trial that is lost and not yet to be done again is one too few.
    """

    def __init__(self, study: optuna.Study, seconds: float, told: Callable[[str], None], deciding: threading.Lock) -> None:
        self._study, self._seconds, self._told, self._deciding = study, seconds, told, deciding
        self._held: dict[int, int] = {}
        self._seen: dict[int, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_end, daemon=True)

    def __enter__(self) -> Leases:
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewer.join()

    def hold(self, trial: optuna.Trial) -> None:
        """Begins a lease of a trial."""
        trial.set_user_attr(LEASE, 0)
        with self._lock:
            self._held[trial._trial_id] = 0

    def release(self, trial: optuna.Trial) -> None:
        """Ends it: the trial is told what became of it next."""
        with self._lock:
            del self._held[trial._trial_id]

    def others(self) -> list[FrozenTrial]:
        """Trials that another process carries out, as far as one knows."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        with self._lock:
            return [trial for trial in running if LEASE in trial.user_attrs and trial._trial_id not in self._held]

    def _renew_until_end(self) -> None:
        while not self._ended.wait(self._seconds / RENEWALS):
            try:
                self._renew()
                self._look_at_others()
            except Exception as error:  # A storage may be away for a while; the next turn tries again.
                self._told(f"the storage does not answer: {error}")

    def _renew(self) -> None:
        with self._lock:
            # Under the lock, which `release` needs: a trial that has ended takes no attribute.
            for trial_id in self._held:
                self._held[trial_id] += 1
                # Who holds a trial that others took for lost hears of it at its end.
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._study._storage.set_trial_user_attr(trial_id, LEASE, self._held[trial_id])

    def _look_at_others(self) -> None:
        now = time.monotonic()
        seen: dict[int, tuple[int, float]] = {}
        for trial in self.others():
            lease = trial.user_attrs[LEASE]
            before = self._seen.get(trial.number)
            seen[trial.number] = before if before is not None and before[0] == lease else (lease, now)
            if now - seen[trial.number][1] > self._seconds:
                with self._deciding:
                    is_given_up = give_up(self._study, trial)
                if is_given_up:
                    self._told(f"trial {trial.number} was left by its worker: it is done again")
        self._seen = seen


def give_up(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Ends a trial that was not carried out to its end, to be done again. False where somebody else was faster."""
    storage = study._storage
    try:
        storage.set_trial_user_attr(trial._trial_id, LOST, True)
        if not storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL):
            return False
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})
    return True
