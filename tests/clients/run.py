"""Tests the server with other people's gRPC clients: python tests/clients/run.py PATH-TO-LOGITD."""

import importlib.resources
import os
import pathlib
import sys
import tempfile
import unittest

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    if len(sys.argv) != 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: python tests/clients/run.py PATH-TO-LOGITD (cargo build --release makes one)")
    os.environ["LOGITD"] = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="logitd-stubs-") as stubs:
        make_stubs(stubs)
        sys.path[:0] = [stubs, str(HERE)]
        tests = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
        result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(tests)
    failed = len(result.failures) + len(result.errors) + len(result.skipped)
    print(f"clients: {result.testsRun - failed} passed, {failed} failed")
    return 0 if result.wasSuccessful() and result.testsRun > 0 and failed == 0 else 1


def make_stubs(into: str) -> None:
    """Generates the Python API from the same files that the server is made from."""
    proto = HERE.parent.parent / "proto"
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={into}",
                 f"--grpc_python_out={into}", "logitd/v1/sampler.proto", "logitd/trace/v1/trace.proto"]
    if protoc.main(arguments) != 0:
        sys.exit(f"protoc refused {' or '.join(arguments[-2:])}")


if __name__ == "__main__":
    sys.exit(main())
