"""Where trials are kept: a journal file, a database, or Optuna's gRPC proxy before one."""

from __future__ import annotations

import os
from typing import Any

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection

__all__ = ["JOURNAL", "open_storage", "open_study"]

# The file that `logitd tune` writes, too. Each has studies of its own in it.
JOURNAL = "study.journal"
# How every line of a journal begins: what begins otherwise is somebody's own file.
_HEAD = b'{"op_code":'
# What a study was created for, as an attribute of it. Those of `logitd tune` have no such attribute.
MADE_FOR = "logitd:made_for"


def open_storage(place: str) -> BaseStorage:
    """The storage at `grpc://HOST:PORT`, at the URL of a database, or in a journal file, which is made where there is none."""
    if place.startswith("grpc://"):
        host, _, port = place.removeprefix("grpc://").rstrip("/").rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--storage {place}: allowed: grpc://HOST:PORT")
        proxy = GrpcStorageProxy(host=host, port=int(port))
        proxy.wait_server_ready(timeout=60)
        return proxy
    if "://" in place:
        return get_storage(place)
    _cut_torn_line(place)
    return JournalStorage(JournalFileBackend(place))


def _cut_torn_line(path: str) -> None:
    """What a writer that died has left of its last line is cut away: Optuna cannot read a file that goes on behind it."""
    if not os.path.exists(path):
        return
    lock = JournalFileSymlinkLock(path)
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            begins = file.read(len(_HEAD))
            if not _HEAD.startswith(begins):
                raise ValueError(f"--storage {path}: it is no journal of Optuna's; name another file, or a URL")
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(end - (1 << 16), 0)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            file.truncate(end)
    finally:
        lock.release()


def open_study(
    storage: BaseStorage,
    name: str,
    objectives: list[tuple[str, str]],
    made_for: dict[str, Any],
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """The study of that name, created if need be. One that was made for something else is refused."""
    directions = [StudyDirection[direction.upper()] for _, direction in objectives]
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, sampler=sampler, pruner=pruner)
        study.set_metric_names([metric for metric, _ in objectives])
        study.set_user_attr(MADE_FOR, made_for)
        return study
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)
    found = study.user_attrs.get(MADE_FOR)
    if found is None and study.get_trials(deepcopy=False):
        raise ValueError(f"--study {name}: another program made it; choose another name")
    # None where it is being created at this very moment.
    before: dict[str, Any] = found or made_for
    differing = sorted(key for key in made_for if before.get(key) != made_for[key])
    if differing:
        said = "; ".join(f"{key} was {before.get(key)!r} and is {made_for[key]!r}" for key in differing)
        raise ValueError(f"--study {name}: it was made for something else: {said}. Choose another name")
    return study
