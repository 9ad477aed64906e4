"""The command line of `python -m logitd.tune`."""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from .. import __version__
from . import metrics, report
from .command import Command, variable
from .forced import GOALS, Forced
from .search import ERROR, PRUNERS, SAMPLERS, USED, Search, grid_size, is_lost, make_pruner, make_sampler, need, shown
from .space import SAMPLING, Axis, parse
from .storage import JOURNAL, open_storage, open_study
from .trials import Failed, Limit, Objective

__all__ = ["main"]

# What numpy's generators take, which samplers have.
SEED_MAX = 2**32 - 1

EPILOGUE = """\
The command is run by sh, once a trial, with the trial's parameters in variables (LOGITD_TEMPERATURE, LOGITD_TOP_K, LOGITD_TOP_P,
LOGITD_MIN_P; LOGITD_LR of --param lr=..) and in placeholders ({temperature}, {lr}), and with LOGITD_SEED or {seed}, the same for every
trial. Its last line is a JSON object with the numbers that are minimized, maximized or limited; lines before it such as
{"step": 3, "loss": 3.9} are for the pruner. A top_k of 0 is off.

Examples:
  python -m logitd.tune --command './eval.sh' --minimize loss --trials 100
  python -m logitd.tune --command './eval.sh' --maximize pass@1 --metrics pass@1 --param temperature --jobs 4
  python -m logitd.tune --command './train.sh {lr}' --minimize loss --param lr=log:1e-5:1e-2 --pruner hyperband
  python -m logitd.tune --logits rows.npy --targets next.npy --goal safe        (logitd tune does it better)
  python -m logitd.tune report --storage study.journal                          (a page with pictures)
  optuna-dashboard study.journal
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m logitd.tune",
        description="Finds the best parameters of anything that a command can score, by Optuna.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what is judged")
    what.add_argument("--command", metavar="COMMAND", help="what carries out a trial")
    what.add_argument("--minimize", metavar="NAME", action=_Objectives, dest="objectives", default=[], help="a number of the command's that is to be small; repeatable")
    what.add_argument("--maximize", metavar="NAME", action=_Objectives, dest="objectives", help="a number that is to be great; repeatable")
    what.add_argument("--subject-to", metavar="NAME<=NUMBER", action="append", type=_of(Limit.parse), default=[], help="what a number must not be above, or below (>=); repeatable")
    what.add_argument("--metrics", metavar="NAME,..", type=_metrics, default=[], help=f"numbers that are worked out of the command's last line: of \"generated\" (texts or lists of tokens, or the path of a file with one a line) {', '.join(metrics.METRICS)}; of \"passed\" ([samples, passed] a task) pass@K")
    what.add_argument("--logits", metavar="FILE", type=pathlib.Path, help="in place of a command: rows of logits (.npy) ..")
    what.add_argument("--targets", metavar="FILE", type=pathlib.Path, help="and the token that came after each (.npy)")
    what.add_argument("--goal", choices=GOALS, help="nll, or safe: nll with tail <= 0.001 (the default)")
    how = parser.add_argument_group("how it is searched")
    how.add_argument("--param", metavar="AXIS", action="append", type=_of(parse), default=[], dest="params", help="what is searched, repeatable: temperature, top_k, top_p or min_p by its name; NAME=log:1e-5:1e-2, NAME=float:0:1[:0.1], NAME=int:1:8[:1], NAME=choice:a,b (the four by their names)")
    how.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="who suggests (tpe)")
    how.add_argument("--trials", metavar="N", type=_count, help="trials of the study in all (100; of a grid all)")
    how.add_argument("--jobs", metavar="N", type=_count, default=1, help="trials at a time (1)")
    how.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="after so long no trial is begun, and those that run are ended; the next call goes on with them")
    how.add_argument("--trial-timeout", metavar="SECONDS", type=_seconds, help="a command that takes longer has failed")
    how.add_argument("--seed", metavar="N", type=_seed, default=0, help="of the sampler, and LOGITD_SEED (0)")
    how.add_argument("--pruner", choices=PRUNERS, default="none", help="who ends trials that are not worth their time, by the lines with a step (none)")
    where = parser.add_argument_group("where it is kept")
    where.add_argument("--storage", metavar="URL|FILE", default=JOURNAL, help=f"a journal file, the URL of a database, or grpc://HOST:PORT of Optuna's proxy ({JOURNAL})")
    where.add_argument("--study", metavar="NAME", help="the study's name; the same name goes on with it, and more workers work on it (of the command, the parameters and the objectives)")
    where.add_argument("--lease", metavar="SECONDS", type=_seconds, default=120.0, help="a worker that is not heard of for so long is dead, and its trials are done again (120)")
    where.add_argument("--json", action="store_true", help="print a line of JSON for each of the best trials, and one for the study")
    return parser


class _Objectives(argparse.Action):
    """Both flags fill one list, in the order in which they stand."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        if any(name == values for name, _ in namespace.objectives):
            parser.error(f"{option} {values}: it is an objective already")
        namespace.objectives = [*namespace.objectives, (values, (option or "").removeprefix("--"))]


def _of(read: Any) -> Any:
    """What argparse calls, with the error's own words."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _number(kind: Any, least: float, allowed: str, most: float = sys.float_info.max) -> Any:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: {allowed}")
        return value

    return read


_count = _number(int, 1, "whole numbers from 1")
_seed = _number(int, 0, f"whole numbers, 0 to {SEED_MAX}", SEED_MAX)
_seconds = _number(float, 0.1, "seconds, from 0.1")


def _metrics(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        _of(metrics.named)(name)
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches, and tells what is best; with `report` first, draws what was found."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["report"]:
        return report.main(arguments[1:])
    parser = _parser()
    args = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Optuna warns of what is experimental, and of steps that do not divide a range. For all threads, so once.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            search = _search(args)
        except (ValueError, TypeError, OSError, EOFError, ImportError, Failed, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            parser.error(str(error))
        with _stopped_by_signals(search.stop):
            search.run()
        return _tell(search, args)


def _search(args: argparse.Namespace) -> Search:
    axes: list[Axis] = args.params or list(SAMPLING.values())
    _check(args, axes)
    objective: Objective
    data: dict[str, Any] = {}
    if args.command is None:
        goal, limits = GOALS[args.goal or "safe"]
        objective, args.objectives = Forced(args.logits, args.targets), [(goal, "minimize")]
        data = {"data": objective.digest}
        args.subject_to = [*limits, *args.subject_to]
    else:
        objective = Command(args.command, seed=args.seed, timeout_s=args.trial_timeout, metrics=args.metrics)
    sampler, pruner = make_sampler(args.sampler, args.seed, axes), make_pruner(args.pruner)
    made_for = {
        "what": args.command or f"{args.logits} {args.targets}",
        "params": [repr(axis) for axis in axes],
        "objectives": [f"{direction} {name}" for name, direction in args.objectives],
        "subject_to": [str(limit) for limit in args.subject_to],
        "seed": args.seed,
        **data,
    }
    if args.sampler == "grid":
        # Its trials are numbered by place in the grid: of another grid they would be others.
        made_for["grid"] = {axis.name: axis.grid() for axis in axes}
    name = args.study or _name(made_for)
    study = open_study(open_storage(args.storage), name, args.objectives, made_for, sampler, pruner)
    study.set_user_attr("logitd:version", __version__)
    trials = grid_size(axes) if args.sampler == "grid" else 100
    return Search(
        study=study,
        axes=axes,
        objective=objective,
        objectives=args.objectives,
        limits=args.subject_to,
        trials=min(args.trials, trials) if args.sampler == "grid" and args.trials else args.trials or trials,
        jobs=args.jobs,
        deadline=None if args.timeout is None else time.monotonic() + args.timeout,
        lease_s=args.lease,
        told=lambda said: print(said, file=sys.stderr, flush=True),
    )


def _check(args: argparse.Namespace, axes: list[Axis]) -> None:
    """What flags do not go together."""
    if (args.command is None) == (args.logits is None):
        raise ValueError("what is to be judged? give one of --command and --logits (with --targets)")
    if (args.logits is None) != (args.targets is None):
        raise ValueError("--logits and --targets go together")
    if args.command is not None and (not args.objectives or args.goal):
        raise ValueError("--command needs --minimize NAME or --maximize NAME, and has no --goal")
    if args.command is None:
        foreign = [axis.name for axis in axes if axis.name not in SAMPLING]
        if args.objectives or args.metrics or foreign:
            raise ValueError("--logits has a --goal, parameters of sampling, and no --minimize, --maximize or --metrics")
    if "self-bleu" in args.metrics:
        need("--metrics self-bleu", ("sacrebleu",))
    names = [variable(axis.name) for axis in axes] + [variable("seed")]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"--param: two of them, or one and the seed, would be {twice}; give each another name")
    if len(args.objectives) > 1 and (args.pruner != "none" or args.sampler == "cmaes"):
        raise ValueError("--pruner and --sampler cmaes know one objective only; leave the others to --subject-to, or take --sampler nsga2")


def _name(made_for: dict[str, Any]) -> str:
    """The name of a study that nobody has named: the same of the same experiment, and no other's."""
    digest = hashlib.sha256(json.dumps(made_for).encode()).hexdigest()
    words = made_for["what"].split()
    return f"{pathlib.PurePath(words[0]).name if words else 'command'} {digest[:8]}"


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end what is going on, and keep what was found."""

    def handler(number: int, _frame: FrameType | None) -> None:
        # The second time it is meant.
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)


def _tell(search: Search, args: argparse.Namespace) -> int:
    """Prints the best trials. Not 0 where there is none, or where all that was carried out here has failed."""
    trials = search.study.get_trials(deepcopy=False)
    best = _best(search, trials)
    if args.json:
        for trial in best:
            print(json.dumps(_line(search, trial)))
        print(json.dumps({"name": "study", "study": search.study.study_name, "storage": _place(args.storage), **_counts(trials)}))
    else:
        for trial in best:
            print(_told(search, trial))
        counts = ", ".join(f"{count} {state}" for state, count in _counts(trials).items() if count)
        print(f"study {search.study.study_name!r} in {_place(args.storage)}: {counts or 'no trial'}")
    if not best:
        print(_why_none(search, trials), file=sys.stderr)
    all_failed = set(search.counts) == {TrialState.FAIL}
    return 1 if all_failed or not best else 0


def _place(storage: str) -> str:
    """Where trials are, without the password of a URL."""
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", storage)


def _best(search: Search, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Of one objective the best trial within the limits, of several those that none is better than in all."""
    within = [trial for trial in trials if trial.state == TrialState.COMPLETE and all(excess <= 0 for excess in trial.constraints.values())]
    signs = [1 if direction == "minimize" else -1 for _, direction in search.objectives]
    costs = [[sign * value for sign, value in zip(signs, trial.values, strict=True)] for trial in within]
    if len(signs) == 1:
        return [min(zip(costs, within, strict=True), key=lambda pair: (pair[0], pair[1].number))[1]] if within else []

    def is_beaten(own: list[float]) -> bool:
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in costs)

    return [trial for trial, own in zip(within, costs, strict=True) if not is_beaten(own)]


def _counts(trials: list[FrozenTrial]) -> dict[str, int]:
    lost = sum(map(is_lost, trials))
    counts = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    counts["failed"] = counts.pop("fail") - lost
    return counts


def _numbers(search: Search, trial: FrozenTrial) -> dict[str, float]:
    values = {name: value for (name, _), value in zip(search.objectives, trial.values, strict=True)}
    limited = {limit.name for limit in search.limits}
    return values | {name: trial.user_attrs[name] for name in sorted(limited - set(values)) if name in trial.user_attrs}


def _line(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    return {"name": "best", "number": trial.number, "params": trial.user_attrs[USED], "values": _numbers(search, trial)}


def _told(search: Search, trial: FrozenTrial) -> str:
    params = trial.user_attrs[USED] | ({"top_k": "off"} if trial.user_attrs[USED].get("top_k") == 0 else {})
    return f"best: {shown(params)}: {shown(_numbers(search, trial))} (trial {trial.number})"


def _why_none(search: Search, trials: list[FrozenTrial]) -> str:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if complete:
        limits = ", ".join(map(str, search.limits))
        return f"none of {len(complete)} trials is within {limits}: give it more --trials, or widen --subject-to"
    failed = [trial for trial in trials if ERROR in trial.user_attrs]
    if failed:
        return f"no trial is complete, {len(failed)} failed; the last: {failed[-1].user_attrs[ERROR]}"
    return "no trial is complete"
