"""The example that finds parameters by other people's tools, over positions that the repository carries."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import logitd
from positions import carried

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "find_parameters.py"
EVERY = 4
# What none of them may be worse than: a usual model card.
USUAL = {"temperature": 0.7, "top_k": 20, "top_p": 0.8}


@pytest.mark.parametrize(("way", "package"), [("sklearn-grid", "sklearn"), ("sklearn-random", "sklearn"), ("hyperopt", "hyperopt"), ("optuna", "optuna")])
def test_parameters_are_found_by_other_tools(way: str, package: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    logits, references = carried().logits[::EVERY], carried().references[::EVERY]
    np.save(tmp_path / "rows.npy", logits)
    np.save(tmp_path / "next.npy", references)
    command = [sys.executable, str(EXAMPLE), "--logits", "rows.npy", "--targets", "next.npy", "--by", way, "--trials", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout.strip())
    names = sorted(["temperature", "top_k", "top_p", "min_p"])
    assert done.stdout.startswith(f"{way}: ") and re.findall("|".join(names), done.stdout) == names
    nll, tail = (float(re.search(rf"{name} ([0-9.]+)", done.stdout)[1]) for name in ("nll", "tail"))
    usual = logitd.evaluate(logits, references, [USUAL])
    assert nll < usual.nll[0] - 0.5 and tail <= 0.5


def test_a_grid_of_sklearn_is_that_of_evaluate() -> None:
    selection = pytest.importorskip("sklearn.model_selection", reason="sklearn is not installed")
    axes = {"temperature": [0.5, 1.0, 1.5], "top_k": [0, 40], "top_p": [0.9, 1.0]}
    logits, references = carried().logits[::16], carried().references[::16]
    grid = logitd.evaluate(logits, references, **axes)
    listed = list(selection.ParameterGrid(axes))
    found = logitd.evaluate(logits, references, listed)
    own = [{name: value for name, value in grid.params_of(place).items() if name in axes} for place in range(len(grid))]
    assert [found.nll[listed.index(params)] for params in own] == grid.nll.tolist()
