"""A minimal Debian in a folder, to install the package in."""

import atexit
import os
import pathlib
import shutil
import subprocess
import tempfile

# chroot, and what makes one, are for root.
ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
MAKE_TIMEOUT_S = 300


def suite() -> str:
    """The release of this machine, whose C library the binary was linked with."""
    lines = pathlib.Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"]


class Debian:
    """It is made in the background from the start, since that takes a while; `ready` waits for it."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="logitd-debian-"))
        self.folder.chmod(0o755)
        self.path = self.folder / "root"
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*ROOT, "nice", "mmdebstrap", "--variant=essential", "--include=adduser", suite(), str(self.path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ready(self) -> "Debian":
        if self.process.wait(MAKE_TIMEOUT_S) != 0:
            raise RuntimeError((self.folder / "log").read_text())
        return self

    def run(self, *command: str, check: bool = True) -> str:
        """What a command in it prints."""
        done = subprocess.run([*ROOT, "chroot", str(self.path), *command], capture_output=True, text=True, timeout=120)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def remove(self):
        self.process.kill()
        self.process.wait()
        if ROOT:
            subprocess.run([*ROOT, "rm", "-rf", str(self.folder)], check=True)
        else:
            shutil.rmtree(self.folder)


_begun: Debian | None = None


def begin():
    """Begins to make the one that the tests share."""
    global _begun
    _begun = Debian()
    atexit.register(_begun.remove)


def begun() -> Debian:
    """The one that was begun; now, if nobody has."""
    if _begun is None:
        begin()
    return _begun
