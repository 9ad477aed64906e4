"""`python -m logitd.tune report`: a study as a page, drawn by Optuna and plotly. It loads nothing from anywhere.

For sampled studies: what `logitd tune` has swept, `logitd tune --show STUDY --report PAGE` draws, exactly.
"""

from __future__ import annotations

import argparse
import html
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from .search import USED, need, shown
from .storage import JOURNAL, open_storage

__all__ = ["main", "page"]

# Beyond so many trials lines of parallel coordinates are a grey field, and the page has tens of megabytes.
TRIALS_MAX = 10_000
# What every page of ours has near its beginning: what lacks it is somebody's own file.
MARK = '<meta name="generator" content="logitd tune">'
MARK_WITHIN = 1024
STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:24px auto;padding:0 16px}th,td{padding:4px 12px;text-align:left}"


def main(arguments: Sequence[str]) -> int:
    """Draws the study that the flags name."""
    parser = argparse.ArgumentParser(prog="python -m logitd.tune report", description="Draws a study: history, importances, slices, fronts; one page that loads nothing.", allow_abbrev=False)
    parser.add_argument("--storage", metavar="URL|FILE", default=JOURNAL, help=f"where it is ({JOURNAL})")
    parser.add_argument("--study", metavar="NAME", help="its name, where there are several")
    parser.add_argument("--out", metavar="FILE", type=pathlib.Path, help="the page (the name of the storage's file, or study, with .report.html)")
    args = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    out = args.out or pathlib.Path("study" if "://" in args.storage else args.storage).with_suffix(".report.html")
    try:
        need("report", ("plotly",))
        _check(out)
        study = _study(args.storage, args.study)
        with warnings.catch_warnings():
            # Optuna says of some plots that they are experimental.
            warnings.simplefilter("ignore")
            text = page(study)
        out.write_text(text, encoding="utf-8")
    except (ValueError, OSError, optuna.exceptions.OptunaError) as error:
        parser.error(str(error))
    print(f"{out}: study {study.study_name!r}")
    return 0


def _check(out: pathlib.Path) -> None:
    if out.is_file():
        with out.open("rb") as file:
            head = file.read(MARK_WITHIN)
        if head and MARK.encode() not in head:
            raise ValueError(f"--out {out}: the file is no page of logitd tune, and would be overwritten; name another")


def _study(place: str, name: str | None) -> optuna.Study:
    # A journal would be made where there is none.
    if "://" not in place and not pathlib.Path(place).is_file():
        raise ValueError(f"--storage {place}: there is no such file")
    storage = open_storage(place)
    names = optuna.get_all_study_names(storage)
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        asked = "which study?" if name is None else f"--study {name}: there is none of that name."
        raise ValueError(f"{asked} In {place} there are: {', '.join(map(repr, names)) or 'none'}")
    return optuna.load_study(study_name=name, storage=storage)


def page(study: optuna.Study) -> str:
    """The study as HTML."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        raise ValueError(f"study {study.study_name!r} has no complete trial to draw")
    if len(trials) > TRIALS_MAX:
        raise ValueError(f"study {study.study_name!r} has {len(trials)} trials; allowed: up to {TRIALS_MAX}. A sweep of logitd tune is drawn by: logitd tune --show FILE --report PAGE")
    sections: list[str] = []
    script = "inline"
    for title, figure in _figures(study, trials):
        figure.update_layout(title=None, margin={"t": 24})
        drawn = figure.to_html(full_html=False, include_plotlyjs=script or False, div_id=f"figure-{len(sections)}")
        # The program that draws stands in the page once.
        script = ""
        sections.append(f"<section>\n<h2>{html.escape(title)}</h2>\n{drawn}\n</section>")
    title = html.escape(study.study_name)
    states = (f"{sum(trial.state == state for trial in study.get_trials(deepcopy=False))} {state.name.lower()}" for state in TrialState)
    counts = ", ".join(said for said in states if not said.startswith("0 "))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f"<h1>{title}</h1>\n<p>{counts}</p>\n{_best(study)}\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def _names(study: optuna.Study) -> list[str]:
    """What is minimized or maximized, by name."""
    return study.metric_names or [f"value {i}" for i in range(len(study.directions))]


def _best(study: optuna.Study) -> str:
    """The best trials as a table: of several objectives, those that none is better than in all."""
    names = _names(study)
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("best trial", *names, "with"))
    lines = []
    for trial in study.best_trials:
        with_ = shown(trial.user_attrs.get(USED, trial.params))
        cells = (str(trial.number), *(f"{value:.6g}" for value in trial.values), with_)
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table>\n<tr>{heads}</tr>\n" + "\n".join(lines) + "\n</table>"


def _figures(study: optuna.Study, trials: list[FrozenTrial]) -> Iterator[tuple[str, Any]]:
    from optuna import visualization

    names = _names(study)
    several = len(names) > 1
    if len(names) in (2, 3):
        yield "The front", visualization.plot_pareto_front(study, target_names=names)
    for i, name in enumerate(names):
        # Of one objective Optuna draws what is best so far; it knows no direction of a target.
        of: dict[str, Any] = {"target": _value(i)} if several else {}
        yield f"{name}, trial after trial", visualization.plot_optimization_history(study, **of, target_name=name)
        varied = len({trial.values[i] for trial in trials}) > 1 and len(trials) > 1
        if varied:
            yield f"How much each parameter matters to {name}", visualization.plot_param_importances(study, **of, target_name=name)
        yield f"{name} along each parameter", visualization.plot_slice(study, **of, target_name=name)
        yield f"{name}, with all parameters of a trial", visualization.plot_parallel_coordinate(study, **of, target_name=name)
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        yield "Step after step", visualization.plot_intermediate_values(study)


def _value(i: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[i])
