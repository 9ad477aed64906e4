"""`python -m logitd.tune`: commands, pruning, failures, continuation, and two workers of which one dies."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import logitd
from positions import carried

optuna = pytest.importorskip("optuna", reason="optuna is not installed (pip install 'logitd[tune]')")
from optuna.trial import TrialState  # noqa: E402

from logitd.tune import cli, command  # noqa: E402
from logitd.tune.trials import Limit  # noqa: E402

# Least at temperature 1.1 with top_k off.
SCORE = """\
import json, os
print("at work")
t, k = float(os.environ["LOGITD_TEMPERATURE"]), int(os.environ["LOGITD_TOP_K"])
print(json.dumps({"loss": (t - 1.1) ** 2 + (k > 0), "tail": t / 1000, "seed": int(os.environ["LOGITD_SEED"]), "t": t, "k": k}))
"""
FOUR = ("temperature", "top_k", "top_p", "min_p")


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """Where the journal is, and no variables of this machine are."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LOGITD_")]:
        monkeypatch.delenv(name)
    yield tmp_path


def script(name: str, text: str) -> str:
    """A command that runs a Python program."""
    pathlib.Path(name).write_text(textwrap.dedent(text))
    return f"{sys.executable} -S {name}"


def tune(*flags: str) -> int:
    return cli.main([str(flag) for flag in flags])


def told(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    """The lines of --json, and what was said beside them."""
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def study(storage: str = "study.journal", name: str | None = None) -> "optuna.Study":
    opened = cli.open_storage(storage)
    return optuna.load_study(study_name=name or optuna.get_all_study_names(opened)[-1], storage=opened)


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as ended:
        tune(*flags)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_command_is_told_its_parameters_and_the_best_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    score = script("score.py", SCORE)
    assert tune("--command", score, "--minimize", "loss", "--trials", "12", "--jobs", "2", "--seed", "5", "--json") == 0
    (best, about), _ = told(capsys)
    assert about["complete"] == 12 and about["failed"] == 0
    trials = study().trials
    assert [trial.number for trial in trials] == list(range(12))
    for trial in trials:
        used = trial.user_attrs["logitd:used"]
        # What was printed is what was used; common random numbers: the same seed for all.
        assert (used["temperature"], used["top_k"]) == (trial.user_attrs["t"], trial.user_attrs["k"])
        assert trial.user_attrs["seed"] == 5 and set(used) == set(FOUR)
        assert (trial.params["top_k"] > 1000) == (used["top_k"] == 0)
    least = min(trials, key=lambda trial: trial.values[0])
    assert (best["number"], best["params"], best["values"]) == (least.number, least.user_attrs["logitd:used"], {"loss": least.values[0]})


def test_the_same_command_goes_on_and_suggests_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    score = script("score.py", SCORE)
    flags = ("--command", score, "--minimize", "loss", "--json")
    # Beyond the trials that begin a search, which are random ones.
    assert tune(*flags, "--trials", "13") == 0
    assert tune(*flags, "--trials", "5", "--storage", "other.journal") == 0
    assert tune(*flags, "--trials", "13", "--storage", "other.journal") == 0
    lines, _ = told(capsys)
    whole, in_parts = study().trials, study("other.journal").trials
    assert [trial.params for trial in whole] == [trial.params for trial in in_parts]
    assert len({json.dumps(trial.params) for trial in whole}) == 13
    assert lines[0] == lines[4]
    # Another command has another study in the same file.
    assert tune("--command", score + " again", "--minimize", "loss", "--trials", "1") == 0
    assert len(optuna.get_all_study_names(cli.open_storage("study.journal"))) == 2


@pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")
def test_one_journal_has_the_studies_of_logitd_tune_too(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [os.environ["LOGITD"], "tune", "--json", "--search=sobol", "--sets=5", "--seed=1"]
    score = script("score.py", SCORE)
    lines = subprocess.run(sweep, capture_output=True, text=True, check=True, timeout=300).stdout
    assert tune("--command", score, "--minimize", "loss", "--trials", "2") == 0
    assert subprocess.run(sweep, capture_output=True, text=True, check=True, timeout=300).stdout == lines
    assert tune("--command", score, "--minimize", "loss", "--trials", "3") == 0
    names = optuna.get_all_study_names(cli.open_storage("study.journal"))
    sizes = [len(study(name=name).trials) for name in names]
    assert len(names) == 2 and sizes == [5, 3]
    said = refused(capsys, "--command", score, "--minimize", "loss", "--study", names[0])
    assert "another program made it; choose another name" in said


def test_placeholders_are_quoted_and_other_braces_are_the_shells(capsys: pytest.CaptureFixture[str]) -> None:
    line = """printf '{"n": %s, "lr": %s, "seed": %s, "length": %s}\\n' {n} {lr} {seed} $(printf %s {odd-one} | wc -c); : ${n} {other}"""
    line = line.replace("${n} {other}", "{other}")
    flags = ("--param", "n=int:3:3", "--param", "lr=log:1e-5:1e-2", "--param", "odd-one=choice:it's $(false) \"a\",it's $(false) \"b\"")
    assert tune("--command", line, "--minimize", "n", "--trials", "1", "--seed", "9", *flags, "--json") == 0
    (best, _), _ = told(capsys)
    [trial] = study().trials
    assert (best["values"], trial.user_attrs["seed"], trial.user_attrs["length"]) == ({"n": 3}, 9, len("it's $(false) \"a\""))
    assert trial.user_attrs["lr"] == best["params"]["lr"]
    assert [command.variable(name) for name in ("top_p", "odd-one")] == ["LOGITD_TOP_P", "LOGITD_ODD_ONE"]


FAILURES = {
    "echo one; echo two >&2; exit 3": "the command ended with code 3\n    one\n    two",
    "kill -9 $$": "the command ended with signal SIGKILL, and said nothing",
    "echo 3.5": "the command's last line is no JSON object of numbers\n    3.5",
    "echo '{\"loss\": 1}'; echo done": "the command's last line is no JSON object of numbers",
    "echo '{\"los\": 1}'": "the result has no number 'loss'; it has: los",
    "echo '{\"loss\": 1'$(printf '%0400d' 0)'}'": "the result has no number 'loss'; it has: none",
    "echo '{\"loss\": NaN}'": "loss is nan; allowed: finite numbers",
    "echo '{\"loss\": true}'": "the result has no number 'loss'; it has: none",
    "sleep 60": "the command took longer than --trial-timeout 0.5 s, and said nothing",
}


@pytest.mark.parametrize("line", FAILURES)
def test_a_command_that_fails_is_a_failed_trial_with_its_last_lines(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune("--command", line, "--minimize", "loss", "--trials", "1", "--trial-timeout", "0.5") == 1
    out, err = capsys.readouterr()
    # Two pipes: their lines come in either order.
    told = err.split("trial 0 failed: ")[1].splitlines()
    assert sorted(told[: FAILURES[line].count("\n") + 1]) == sorted(FAILURES[line].splitlines())
    assert "1 failed" in out
    [trial] = study().trials
    assert trial.state == TrialState.FAIL and FAILURES[line].splitlines()[0] in trial.user_attrs["logitd:error"]


def test_a_long_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # What follows its first MiB would be a result by itself.
    long = """import sys\nsys.stdout.write("x" * (1 << 20) + '{"loss": 1}' + sys.argv[1])"""
    last = script("last.py", long)
    assert tune("--command", last + " ''", "--minimize", "loss", "--trials", "1", "--storage", "last.journal") == 1
    said = capsys.readouterr().err
    assert 'the command\'s last line is longer than 1048576 characters: "generated" may be the path of a file' in said and len(said) < 2000
    # One that is as long as a line may be is whole, and one that has a line after it does no harm.
    padding = (1 << 20) - len('{"loss": 2, "s": ""}')
    whole = script("whole.py", long.replace("sys.argv[1]", f"""'\\n{{"loss": 2, "s": "' + "x" * {padding} + '"}}\\n'"""))
    assert tune("--command", whole, "--minimize", "loss", "--trials", "1", "--json") == 0
    assert told(capsys)[0][0]["values"] == {"loss": 2}


def test_some_failures_are_no_failure_of_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    odd = script("odd.py", "import os, sys\nt = float(os.environ['LOGITD_TEMPERATURE'])\nsys.exit(t < 1) if t < 1 else print('{\"loss\": %s}' % t)\n")
    assert tune("--command", odd, "--minimize", "loss", "--trials", "10", "--sampler", "random", "--json") == 0
    (best, about), _ = told(capsys)
    assert about["complete"] + about["failed"] == 10 and about["complete"] > 0 < about["failed"]
    assert best["values"]["loss"] >= 1


def is_alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_pruned_command_is_ended_with_its_whole_group(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path) -> None:
    monkeypatch.setattr(command, "GRACE_S", 0.3)
    # The first five are quick; the sixth is worse than they are, ignores SIGTERM, and so does its child.
    (folder / "steps.sh").write_text("""\
trap '' TERM
echo x >> runs
if [ $(wc -l < runs) -le 5 ]; then echo '{"step": 1, "loss": 1}'; echo '{"loss": 1}'; exit; fi
sleep 100 &
echo $$ $! > pids
echo '{"step": 1, "loss": 2}'
wait
""")
    began = time.monotonic()
    assert tune("--command", "sh steps.sh", "--minimize", "loss", "--trials", "6", "--pruner", "median") == 0
    print(f"{time.monotonic() - began:.1f} s")
    assert Counter(trial.state for trial in study().trials) == {TrialState.COMPLETE: 5, TrialState.PRUNED: 1}
    assert study().trials[5].intermediate_values == {1: 2.0}
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(("pruner", "package"), [("none", None), ("median", None), ("hyperband", None), ("wilcoxon", "scipy")])
def test_every_pruner_is_told_of_steps(pruner: str, package: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    line = """for i in 1 2 3; do echo '{"step": '$i', "loss": '{temperature}'}'; done; echo '{"loss": '{temperature}'}'"""
    flags = ("--command", line, "--minimize", "loss", "--param", "temperature", "--trials", "8", "--pruner", pruner)
    try:
        __import__(package or "json")
    except ImportError:
        assert f"--pruner {pruner} needs {package}: pip install" in refused(capsys, *flags)
        return
    assert tune(*flags) == 0
    for trial in study().trials:
        steps = {step: trial.params["temperature"] for step in range(1, len(trial.intermediate_values) + 1)}
        assert steps and trial.intermediate_values == pytest.approx(steps)
        assert trial.state in ((TrialState.COMPLETE,) if len(steps) == 3 and pruner == "none" else (TrialState.COMPLETE, TrialState.PRUNED))


def test_passwords_are_not_told() -> None:
    assert cli._place("postgresql://me:it's:secret@host/db") == "postgresql://me:***@host/db"
    assert cli._place("grpc://host:13000") == "grpc://host:13000"


def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "config.json"
    own.write_text('{"a": 1}')
    said = refused(capsys, "--command", "x", "--minimize", "a", "--storage", str(own))
    assert "config.json: it is no journal of Optuna's" in said
    assert own.read_text() == '{"a": 1}'


def test_limits_are_told_apart_to_the_last_digit() -> None:
    assert [str(Limit.parse(text)) for text in ("n<=12345670", "n<=12345679", "t>=0.001")] == ["n<=12345670", "n<=12345679", "t>=0.001"]


def test_a_step_below_0_fails_its_trial_alone() -> None:
    line = """echo '{"step": -1, "loss": 1}'; echo '{"loss": 1}'"""
    flags = ("--command", line, "--minimize", "loss", "--param", "temperature", "--trials", "2", "--pruner", "median")
    assert tune(*flags) != 0
    assert all("step is -1; allowed" in trial.user_attrs["logitd:error"] for trial in study().trials)


def test_limits_decide_what_is_best(capsys: pytest.CaptureFixture[str]) -> None:
    score = script("score.py", SCORE)
    flags = ("--command", score, "--minimize", "loss", "--param", "temperature", "--param", "top_k=int:1:1", "--trials", "12", "--json")
    assert tune(*flags, "--subject-to", "tail<=0.0008") == 0
    (best, _), _ = told(capsys)
    within = [trial for trial in study().trials if trial.user_attrs["t"] <= 0.8]
    assert best["number"] == min(within, key=lambda trial: (trial.values[0], trial.number)).number
    assert best["number"] == study().best_trial.number, "Optuna sees the same limits"
    assert best["values"]["tail"] <= 0.0008
    assert tune(*flags, "--subject-to", "tail>=5") == 1
    assert "none of 12 trials is within tail>=5" in capsys.readouterr().err


def test_several_objectives_have_a_front(capsys: pytest.CaptureFixture[str]) -> None:
    score = script("score.py", SCORE)
    assert tune("--command", score, "--minimize", "loss", "--maximize", "tail", "--sampler", "nsga2", "--trials", "10", "--json") == 0
    lines, _ = told(capsys)
    assert [line["number"] for line in lines[:-1]] == [trial.number for trial in study().best_trials]
    assert len(lines) >= 2 and study().metric_names == ["loss", "tail"]


def test_a_grid_is_gone_through_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = """echo '{"loss": '{n}'}'"""
    assert tune("--command", line, "--minimize", "loss", "--sampler", "grid", "--param", "n=int:1:4", "--param", "o=choice:a,b", "--json") == 0
    (best, about), _ = told(capsys)
    assert about["complete"] == 8 and best["values"] == {"loss": 1}
    assert len({tuple(trial.params.items()) for trial in study().trials}) == 8
    assert study().user_attrs["logitd:made_for"]["grid"] == {"n": [1, 2, 3, 4], "o": ["a", "b"]}


def test_a_grid_of_other_values_is_another_study(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--command", """echo '{"loss": 1}'""", "--minimize", "loss", "--sampler", "grid", "--param", "x=float:0:1", "--trials", "1")
    assert tune(*flags) == 0 and tune(*flags, "--study", "mine") == 0
    # As another version may have it.
    monkeypatch.setattr(cli.Axis.__args__[0], "grid", lambda _: [0.0, 1.0])
    assert tune(*flags) == 0
    assert len(optuna.get_all_study_names(cli.open_storage("study.journal"))) == 3
    assert "it was made for something else: grid was {'x': [0.0, 0.25, 0.5, 0.75, 1.0]} and is {'x': [0.0, 1.0]}" in refused(capsys, *flags, "--study", "mine")


@pytest.mark.parametrize(("sampler", "package"), [("random", None), ("nsga2", None), ("cmaes", "cmaes"), ("qmc", "scipy"), ("gp", "torch")])
def test_every_sampler_suggests_within_the_axes(sampler: str, package: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--command", """echo '{"loss": '{temperature}'}'""", "--minimize", "loss", "--sampler", sampler, "--trials", "6", "--param", "temperature", "--param", "top_k")
    try:
        __import__(package or "json")
    except ImportError:
        assert f"--sampler {sampler} needs {package}: pip install" in refused(capsys, *flags)
        return
    assert tune(*flags) == 0
    trials = study().trials
    assert len({trial.params["temperature"] for trial in trials}) >= 5
    assert all(0.3 <= trial.params["temperature"] <= 2 and 1 <= trial.params["top_k"] <= 2000 for trial in trials)


def test_what_time_ran_out_for_is_done_by_the_next_call(capsys: pytest.CaptureFixture[str]) -> None:
    slow = """test -e go || sleep 60; echo '{"loss": 1}'"""
    assert tune("--command", slow, "--minimize", "loss", "--trials", "2", "--jobs", "2", "--timeout", "0.5") == 1
    assert [trial.state for trial in study().trials] == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2
    pathlib.Path("go").touch()
    assert tune("--command", slow, "--minimize", "loss", "--trials", "2", "--json") == 0
    assert [trial.state for trial in study().trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2
    trials = study().trials
    assert {trial.user_attrs["logitd:retry_of"] for trial in trials[2:]} == {0, 1}
    assert all(trial.params == trials[trial.user_attrs["logitd:retry_of"]].params for trial in trials[2:])


def test_a_signal_ends_the_search_and_its_command(folder: pathlib.Path) -> None:
    line = "echo $$ > pid; sleep 100"
    worker = subprocess.Popen([sys.executable, "-m", "logitd.tune", "--command", line, "--minimize", "loss"], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip())
    worker.send_signal(signal.SIGINT)
    assert worker.wait(timeout=60) == 1
    assert not is_alive(int((folder / "pid").read_text()))
    assert [trial.state for trial in study().trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_line_that_was_cut_off_does_not_stop_the_next_call(folder: pathlib.Path) -> None:
    flags = ("--command", """echo '{"loss": 1}'""", "--minimize", "loss")
    assert tune(*flags, "--trials", "3") == 0
    journal = folder / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":6,"worker_')
    assert tune(*flags, "--trials", "4") == 0
    assert journal.read_bytes().startswith(whole)
    assert [trial.state for trial in study().trials] == [TrialState.COMPLETE] * 4


def test_metrics_are_of_what_was_generated(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out.jsonl").write_text('"a b a b"\n[1, 2, 3]\n')
    line = """echo '{"generated": "out.jsonl", "passed": [[4, 2], [4, 0]]}'"""
    flags = ("--command", line, "--maximize", "distinct-1", "--trials", "1", "--json")
    assert tune(*flags, "--metrics", "distinct-1,seq-rep-4,pass@2") == 0
    (best, _), _ = told(capsys)
    assert best["values"] == {"distinct-1": 0.75}
    assert study().trials[0].user_attrs["pass@2"] == pytest.approx(5 / 12)
    assert tune(*flags, "--metrics", "distinct-1,seq-rep-4", "--study", "short", "--command", """echo '{"generated": ["a b c"]}'""") == 1
    assert "seq-rep-4 is of no text: none is long enough" in capsys.readouterr().err


def test_known_text_is_judged_without_a_command(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("rows.npy", carried().logits[::4])
    np.save("next.npy", carried().references[::4])
    flags = ("--logits", "rows.npy", "--targets", "next.npy", "--trials", "8", "--param", "temperature", "--json")
    assert tune(*flags, "--goal", "safe", "--sampler", "random") == 0
    for trial in study().trials:
        found = logitd.evaluate(carried().logits[::4], carried().references[::4], [trial.user_attrs["logitd:used"]])
        assert (trial.values, trial.user_attrs["tail"]) == (found.nll.tolist(), found.tail[0])
        assert trial.constraints == {"tail<=0.001": found.tail[0] - 0.001}
    assert any(trial.user_attrs["tail"] > 0.001 for trial in study().trials)
    # Other rows under the same names are another study.
    np.save("next.npy", carried().references[1::4])
    assert tune(*flags, "--goal", "safe", "--sampler", "random") == 0
    assert [len(study(name=name).trials) for name in optuna.get_all_study_names(cli.open_storage("study.journal"))] == [8, 8]
    capsys.readouterr()
    np.save("next.npy", carried().references)
    assert "references has 64 values for 16 rows" in refused(capsys, *flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "what is to be judged? give one of --command and --logits"),
        (["--command", "x"], "--command needs --minimize NAME or --maximize NAME"),
        (["--command", "x", "--minimize", "a", "--minimize", "a"], "--minimize a: it is an objective already"),
        (["--command", "x", "--minimize", "a", "--maximize", "b", "--pruner", "median"], "know one objective only"),
        (["--command", "x", "--minimize", "a", "--param", "lr"], "'lr' has no axis; allowed: lr=int:LOW:HIGH"),
        (["--command", "x", "--minimize", "a", "--param", "a-b=int:1:2", "--param", "a_b=int:1:2"], "would be LOGITD_A_B; give each another name"),
        (["--command", "x", "--minimize", "a", "--param", "seed=int:1:2"], "would be LOGITD_SEED"),
        (["--command", "x", "--minimize", "a", "--subject-to", "tail<0.1"], "'tail<0.1' is no limit; allowed: NAME<=NUMBER"),
        (["--command", "x", "--minimize", "a", "--subject-to", "tail<=nan"], "'tail<=nan' is no limit; allowed: NAME<=NUMBER"),
        (["--command", "x", "--minimize", "a", "--metrics", "bleu"], "'bleu' is no metric; allowed: distinct-1"),
        (["--command", "x", "--minimize", "a", "--seed", "4294967296"], "allowed: whole numbers, 0 to 4294967295"),
        (["--command", "x", "--minimize", "a", "--storage", "nosuch://here"], "nosuch"),
        (["--command", "x", "--minimize", "a", "--storage", "sqlite:////no/such/folder/x.db"], "unable to open database file"),
        (["--command", "x", "--minimize", "a", "--trials", "0"], "'0'; allowed: whole numbers from 1"),
        (["--command", "x", "--minimize", "a", "--storage", "grpc://here"], "--storage grpc://here: allowed: grpc://HOST:PORT"),
        (["--command", "x", "--minimize", "a", "--storage", __file__], "it is no journal of Optuna's"),
        (["--logits", "x.npy"], "--logits and --targets go together"),
        (["--logits", "x.npy", "--targets", "y.npy", "--minimize", "nll"], "--logits has a --goal"),
        (["--logits", "x.npy", "--targets", "y.npy"], "No such file or directory: 'x.npy'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, *flags)


def test_a_study_of_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--command", """echo '{"loss": 1}'""", "--minimize", "loss", "--study", "mine")
    assert tune(*flags, "--trials", "1") == 0
    said = refused(capsys, *flags, "--seed", "2")
    assert "--study mine: it was made for something else: seed was 0 and is 2. Choose another name" in said


def test_a_study_is_drawn_as_a_page_that_loads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    score = script("score.py", SCORE + "print(json.dumps({'step': 1, 'loss': t}))\nprint(json.dumps({'loss': t, 'tail': t}))\n")
    assert tune("--command", score, "--minimize", "loss", "--trials", "12", "--study", "<one>") == 0
    assert tune("report") == 0
    assert capsys.readouterr().out.endswith("study.report.html: study '<one>'\n")
    page = pathlib.Path("study.report.html").read_text(encoding="utf-8")
    for title in ("loss, trial after trial", "How much each parameter matters to loss", "loss along each parameter", "Step after step"):
        assert f"<h2>{title}</h2>" in page
    assert page.count('class="plotly-graph-div"') == 5 and "<h1>&lt;one&gt;</h1>\n<p>12 complete</p>" in page
    assert not re.search(r"<(script|link|img)[^>]* (src|href)=", page)
    assert tune("--command", score, "--minimize", "loss", "--maximize", "tail", "--trials", "6", "--study", "two") == 0
    assert tune("report", "--study", "two", "--out", "two.html") == 0
    page = pathlib.Path("two.html").read_text(encoding="utf-8")
    assert "<h2>The front</h2>" in page and "<h2>tail along each parameter</h2>" in page
    pathlib.Path("notes.html").write_text("milk")
    for flags, said in [
        ([], "which study? In study.journal there are: '<one>', 'two'"),
        (["--study", "three"], "--study three: there is none of that name."),
        (["--study", "two", "--out", "notes.html"], "--out notes.html: the file is no page of logitd tune"),
        (["--storage", "none.journal"], "--storage none.journal: there is no such file"),
    ]:
        assert said in refused(capsys, "report", *flags)
    assert pathlib.Path("notes.html").read_text() == "milk" and not pathlib.Path("none.journal").exists()


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)


def test_a_search_that_is_killed_leaves_no_command_behind(folder: pathlib.Path) -> None:
    # What it has started, too, goes on as long as it lives.
    line = "(while :; do date >> beats; sleep 0.1; done) & wait"
    worker = subprocess.Popen([sys.executable, "-m", "logitd.tune", "--command", line, "--minimize", "loss"], stdout=subprocess.DEVNULL)
    beats = folder / "beats"
    try:
        wait_for(beats.exists)
    finally:
        worker.kill()
        worker.wait()

    def is_still() -> bool:
        before = beats.stat().st_size
        time.sleep(1)
        return beats.stat().st_size == before

    wait_for(is_still)


PROXY = """\
import sys, optuna
optuna.storages.run_grpc_proxy_server(optuna.storages.get_storage("sqlite:///trials.db"), host="localhost", port=int(sys.argv[1]))
"""


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_two_workers_on_a_grpc_proxy_do_what_one_that_is_killed_has_left(folder: pathlib.Path) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    (folder / "proxy.py").write_text(PROXY)
    # The killed worker's trial: it waits until the file is gone, which is when the worker is.
    line = """echo $PPID >> begun; while test -e hold.$PPID; do sleep 0.1; done; echo '{"loss": '{temperature}'}'"""
    flags = ["--command", line, "--minimize", "loss", "--trials", "12", "--storage", f"grpc://localhost:{port}", "--study", "shared", "--lease", "2", "--param", "temperature"]
    worker = [sys.executable, "-m", "logitd.tune", *flags]
    began = time.monotonic()
    proxy = subprocess.Popen([sys.executable, "proxy.py", str(port)], stderr=subprocess.DEVNULL)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        cli.open_storage(f"grpc://localhost:{port}")
        workers.append(subprocess.Popen(worker, stdout=subprocess.DEVNULL))
        (folder / f"hold.{workers[0].pid}").touch()
        wait_for(lambda: (folder / "begun").exists())
        workers.append(subprocess.Popen(worker, stdout=subprocess.DEVNULL))
        os.kill(workers[0].pid, signal.SIGKILL)
        workers[0].wait()
        (folder / f"hold.{workers[0].pid}").unlink()
        assert workers[1].wait(timeout=60) == 0
        trials = study(f"grpc://localhost:{port}", "shared").trials
    finally:
        for process in [*workers, proxy]:
            process.kill()
            process.wait()
    print(f"{time.monotonic() - began:.1f} s, {Counter(trial.state.name for trial in trials)}")
    assert [trial.number for trial in trials] == list(range(13))
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(lost) == 1 and Counter(trial.state for trial in trials) == {TrialState.COMPLETE: 12, TrialState.FAIL: 1}
    [retry] = [trial for trial in trials if trial.user_attrs.get("logitd:retry_of") == lost[0].number]
    assert retry.params == lost[0].params
    assert len(re.findall(r"\d+", (folder / "begun").read_text())) == 13
