"""Tests what is under deploy/ with what it is for: python tests/fleet/run.py PATH-TO-LOGITD [TEST..]."""

import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: python tests/fleet/run.py PATH-TO-LOGITD [TEST..] (cargo build --release makes one)")
    os.environ["LOGITD"] = str(pathlib.Path(sys.argv[1]).resolve())
    sys.path[:0] = [str(HERE)]
    if not sys.argv[2:]:
        import debian
        debian.begin()
    loader = unittest.defaultTestLoader
    tests = loader.loadTestsFromNames(sys.argv[2:]) if sys.argv[2:] else loader.discover(str(HERE), "test_*.py")
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(tests)
    failed = len(result.failures) + len(result.errors) + len(result.skipped)
    print(f"fleet: {result.testsRun - failed} passed, {failed} failed")
    return 0 if result.wasSuccessful() and result.testsRun > 0 and failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
