"""What the README shows, run as it stands there: each block of Python by itself."""

import os
import pathlib
import re

import pytest

README = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()
# Those that begin with ```py stand for lines of a program of another's, with files or models that are not here.
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_a_block_runs(block: str) -> None:
    if "Server(" in block and "LOGITD" not in os.environ:
        pytest.skip("LOGITD names no binary (cargo build --release makes one)")
    exec(compile(block, "README.md", "exec"), {})


def test_all_kinds_of_calls_are_among_them() -> None:
    for call in ["logitd.sample(", "logitd.verify(", "logitd.BeamSearch(", "logitd.Client(", "logitd.AsyncClient(", ".staging("]:
        assert any(call in block for block in BLOCKS), call
