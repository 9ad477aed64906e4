"""Samplers of CUDA devices, where there is none: over the fake driver of `tests/fake_cuda`, which runs the kernels on the processor, does nothing before
it is waited for, and ends a process that reads what is not ordered behind its writing."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = {"libcuda.so.1": ["tests/fake_cuda/cuda.cpp", "kernels/host/engine.cpp"], "libnvrtc.so": ["tests/fake_cuda/nvrtc.cpp"]}
FLAGS = ["-shared", "-fPIC", "-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-unknown-pragmas", "-DLOGITD_SIMT", "-Wl,-Bsymbolic", "-pthread"]
COMPILER = os.environ.get("CXX", "c++")

pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"there is no C++ compiler ({COMPILER}) for the fake driver")


@pytest.fixture(scope="session")
def fake_cuda() -> pathlib.Path:
    """The folder of the fake driver, built where its sources have changed."""
    digest = hashlib.sha256()
    for folder in ("kernels", "kernels/host", "tests/fake_cuda"):
        for path in sorted(path for path in (ROOT / folder).iterdir() if path.is_file()):
            digest.update(path.read_bytes())
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    folder = target / "tmp" / f"fake_cuda_of_python-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, sources in SOURCES.items():
        if not (folder / name).exists():
            unfinished = folder / f"{name}.{os.getpid()}"
            files = [str(ROOT / source) for source in sources]
            subprocess.run([COMPILER, *FLAGS, f"-Wl,-soname,{name}", "-o", str(unfinished), *files], check=True)
            unfinished.rename(folder / name)
    return folder


def run(fake_cuda: pathlib.Path, tests: list[str], tmp_path: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).parent / "cuda" / "calls.py"), *tests],
        env=os.environ | {"LD_LIBRARY_PATH": str(fake_cuda), "FAKE_CUDA_LOG": str(tmp_path / "log"), "FAKE_CUDA_DEVICES": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_arrays_of_a_device_are_sampled_there(fake_cuda: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tests = [
        "arrays_of_every_kind_are_read_behind_their_streams",
        "rows_that_the_processor_samples_come_from_there",
        "nothing_comes_through_the_host",
        "what_cannot_be_read_is_refused_by_name",
    ]
    ran = run(fake_cuda, tests, tmp_path)
    assert ran.returncode == 0 and ran.stdout.splitlines() == [f"done: {test}" for test in tests], ran.stdout + ran.stderr


@pytest.mark.parametrize("test", ["an_array_that_nobody_orders_is_a_fault", "a_stream_that_nobody_names_is_a_fault"])
def test_a_read_that_is_not_ordered_would_show(test: str, fake_cuda: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ran = run(fake_cuda, [test], tmp_path)
    assert ran.returncode != 0 and "nothing orders an upload and a copy, which share memory" in ran.stderr, ran.stdout + ran.stderr


REFUSED = "import logitd\ntry: logitd.Sampler(device='cuda:0')\nexcept RuntimeError as error: print(error)"


@pytest.mark.parametrize(("variables", "said"), [
    ({"FAKE_CUDA_DEVICES": "0"}, "cuInit: CUDA_ERROR_NO_DEVICE"),
    # A wheel that was built with nvcc says instead that its own do not load.
    ({"FAKE_NVRTC": "error", "FAKE_CUDA_REFUSE": "fatbin,cubin,ptx"}, "no kernels are built in \\(build with nvcc for that\\)|the kernels built in do not load"),
])
def test_why_there_is_no_sampler_is_said(variables: dict[str, str], said: str, fake_cuda: pathlib.Path) -> None:
    env = os.environ | {"LD_LIBRARY_PATH": str(fake_cuda)} | variables
    ran = subprocess.run([sys.executable, "-c", REFUSED], env=env, check=True, capture_output=True, text=True)
    assert re.match(f"cuda:0: ({said})", ran.stdout), ran.stdout
