"""A study that `logitd tune` wrote, opened and continued by Optuna."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

TIMEOUT_S = 300


SOBOL = ("--search=sobol", "--seed=5")


def tune(folder: str, *flags: str, sets: int = 300, search: tuple[str, ...] | None = None) -> list[dict]:
    """The lines of `logitd tune --json` over the positions that the program carries, without a search of one's own by
    Sobol points."""
    if search is None:
        search = (*SOBOL, f"--sets={sets}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGITD_", "RUST_"))}
    done = subprocess.run([os.environ["LOGITD"], "tune", "--json", *search, *flags],
                          cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def load(path: pathlib.Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path)))
    [name] = optuna.get_all_study_names(storage)
    # Independent sampling warns of what it is; the seed makes the continuation the same each time.
    return optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.TPESampler(seed=1))


class OptunaTest(unittest.TestCase):
    def setUp(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder = tempfile.TemporaryDirectory(prefix="logitd-tune-")
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name) / "study.journal"

    def test_a_study_is_loaded_with_its_best_and_its_attributes(self) -> None:
        best = tune(self.folder.name)[0]
        study = load(self.path)
        self.assertEqual(study.metric_names, ["nll", "tail"])
        self.assertEqual([trial.state for trial in study.trials], [TrialState.COMPLETE] * len(study.trials))
        self.assertGreater(len(study.trials), 290)
        within = [trial for trial in study.trials if trial.values[1] <= 0.001]
        found = min(within, key=lambda trial: trial.values[0])
        self.assertEqual(found.params, {name: best[name] for name in found.params})
        self.assertEqual(set(found.params), {"temperature", "top_k", "top_p", "min_p"})
        self.assertEqual(found.values, [best["nll"], best["tail"]])
        self.assertEqual(found.user_attrs["coverage"], best["coverage"])
        self.assertEqual(dict(zip(study.user_attrs["sums"], found.user_attrs["sums"]))["hits"], best["hits"])
        self.assertEqual(len(found.user_attrs["group_sums"]), study.user_attrs["groups"])
        self.assertEqual((study.user_attrs["rows"], study.user_attrs["goal"]), (64, "least nll with tail <= 0.001"))
        # What is within the limits to Optuna is within them to us.
        feasible = [all(c <= 0 for c in trial.system_attrs["constraints"]) for trial in study.trials]
        self.assertEqual(feasible, [trial.values[1] <= 0.001 for trial in study.trials])

    def test_the_default_search_tells_optuna_one_range_of_each_parameter(self) -> None:
        # The grid and two rounds around its best, of fewer values than the default's.
        lists = ("--temperature=0.8,1,1.2", "--top-k=40,1000,off", "--top-p=0.9,off", "--min-p=off,0.05")
        best = tune(self.folder.name, search=lists)[0]
        study = load(self.path)
        self.assertGreater(len(study.trials), 36)
        spaces = {repr(sorted(trial.distributions.items())) for trial in study.trials}
        self.assertEqual(len(spaces), 1, spaces)
        self.assertEqual(study.trials[0].distributions["top_k"].high, 262_144)
        within = [trial for trial in study.trials if trial.values[1] <= 0.001]
        self.assertEqual(min(trial.values[0] for trial in within), best["nll"])

    def test_tpe_continues_a_study_and_logitd_continues_that(self) -> None:
        before = tune(self.folder.name)
        study = load(self.path)
        count, space = len(study.trials), study.trials[0].distributions
        for _ in range(5):
            trial = study.ask(space)
            point = ",".join(f"{name}={value}" for name, value in trial.params.items())
            with tempfile.TemporaryDirectory() as elsewhere:
                line, = (line for line in tune(elsewhere, "--compare", point) if line["name"] == point)
            study.tell(trial, [line["nll"], line["tail"]])
        self.assertEqual([trial.number for trial in load(self.path).trials], list(range(count + 5)))
        # The trials of Optuna have no sums, and are left alone; ours are found again.
        length = self.path.stat().st_size
        self.assertEqual(tune(self.folder.name), before)
        self.assertEqual(self.path.stat().st_size, length)
        tune(self.folder.name, sets=310)
        self.assertGreater(len(load(self.path).trials), count + 5)

    def test_a_line_that_was_cut_off_does_not_stop_optuna(self) -> None:
        tune(self.folder.name)
        whole = self.path.read_bytes()
        self.path.write_bytes(whole[:len(whole) * 2 // 3])
        tune(self.folder.name)
        study = load(self.path)
        self.assertEqual([trial.number for trial in study.trials], list(range(len(study.trials))))
        self.assertEqual(len(whole.splitlines()), len(self.path.read_bytes().splitlines()))


if __name__ == "__main__":
    unittest.main()
