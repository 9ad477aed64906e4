"""Whether the vectors that a script makes are what it makes."""

import pathlib
import subprocess
import sys
import unittest

VECTORS = pathlib.Path(__file__).resolve().parent.parent / "vectors"


class Vectors(unittest.TestCase):
    def test_the_vectors_of_tiny_temperatures_are_fresh(self):
        script = VECTORS / "independent" / "tiny_temperatures.py"
        subprocess.run([sys.executable, script, "--check"], check=True)


if __name__ == "__main__":
    unittest.main()
