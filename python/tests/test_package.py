"""The package as it is installed."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

IMPORT = """
import sys
before = {name.split(".")[0] for name in sys.modules}
import logitd
after = {name.split(".")[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
import array
x = array.array("f", [0.5, 2.0, 1.0, 1.75])
print(logitd.sample(x, temperature=0.7, top_k=3, seed=7).tokens.tolist())
after = {name.split(".")[0] for name in sys.modules}
print(sorted(after - before - set(sys.stdlib_module_names)))
"""


def test_importing_it_pulls_in_nothing_and_using_it_numpy() -> None:
    run = subprocess.run([sys.executable, "-I", "-c", IMPORT], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["['logitd']", "[3]", "['logitd', 'numpy']"]


def test_what_it_says_of_itself() -> None:
    import logitd

    distribution = importlib.metadata.distribution("logitd")
    assert logitd.__version__ == distribution.version
    project = pathlib.Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    [optuna] = re.findall(r'^tune = \["(optuna==[^"]+)"\]$', project, re.MULTILINE)
    extras = [f"logitd-server=={logitd.__version__} ; extra == 'server'", f"{optuna} ; extra == 'tune'"]
    assert distribution.requires == ["numpy>=1.22", *extras]
    assert logitd.arithmetic_version == 2
    assert {"logitd/py.typed", "logitd/_native.pyi"} <= {str(file) for file in distribution.files or []}


def test_the_server_of_its_own_wheel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import logitd

    try:
        server = importlib.metadata.distribution("logitd-server")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("logitd-server is not installed")
    assert server.version == logitd.__version__
    # Neither by its variable nor by the PATH.
    monkeypatch.delenv("LOGITD", raising=False)
    monkeypatch.setenv("PATH", "")
    with logitd.Server() as started:
        results = logitd.Client(started.target, timeout=60).sample(np.zeros((2, 9), np.float32), seed=7)
        assert results.tokens.tolist() == logitd.sample(np.zeros((2, 9), np.float32), seed=7).tokens.tolist()
