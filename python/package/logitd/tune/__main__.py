"""`python -m logitd.tune`."""

import sys


def main() -> int:
    """Runs the command line, or says what it needs."""
    try:
        from . import cli
    except ModuleNotFoundError as error:
        if error.name not in ("optuna", "numpy"):
            raise
        print(f"python -m logitd.tune needs {error.name}: pip install 'logitd[tune]'", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
