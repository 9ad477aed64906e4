"""The Debian package is installed in a minimal Debian, and the image of it is run: both must sample."""

import json
import os
import pathlib
import re
import struct
import subprocess
import tempfile
import time
import unittest

import debian
from debian import ROOT
from deployed import DEPLOY

# The row of the README's example, and its answer.
LOGITS = struct.pack("<4f", 0.5, 2, 1, 1.75)
QUESTION = ["--dtype=f32", "--vocab-size=4", "--temperature=0.7", "--top-k=3", "--seed=7", "--json"]
TOKEN = 3
EXPOSURE_MAX = 20  # tenths, of `systemd-analyze security`
START_TIMEOUT_S = 60


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="logitd-package-")
        cls.addClassCleanup(folder.cleanup)
        cls.out = pathlib.Path(folder.name)
        cls.out.chmod(0o755)
        subprocess.run([DEPLOY / "debian" / "build", os.environ["LOGITD"], cls.out], check=True, capture_output=True)
        cls.package, = cls.out.glob("logitd_*.deb")

    def test_the_unit_is_one_and_exposes_little(self):
        text = (DEPLOY / "systemd" / "logitd.service").read_text()
        unit = self.out / "logitd.service"
        unit.write_text(text.replace("/usr/bin/logitd", os.environ["LOGITD"]))
        for arguments in (["verify", "--man=no"], ["security", "--offline=true", f"--threshold={EXPOSURE_MAX}"]):
            done = subprocess.run(["systemd-analyze", *arguments, unit], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertEqual(done.stderr, "")

    def test_there_is_time_to_drain(self):
        unit = (DEPLOY / "systemd" / "logitd.service").read_text()
        settings = (DEPLOY / "debian" / "logitd.toml").read_text()
        drain = [int(value) for value in re.findall(r'^drain_\w+ = "(\d+)s"$', settings, re.M)]
        self.assertEqual(len(drain), 3)
        self.assertGreater(int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1]), sum(drain))

    def test_it_installs_samples_serves_and_goes(self):
        system = debian.begun().ready()
        subprocess.run([*ROOT, "cp", self.package, system.path / "logitd.deb"], check=True)
        system.run("dpkg", "--install", "/logitd.deb")
        self.assertIn("/lib/systemd/system/logitd.service", system.run("readlink", "/etc/systemd/system/multi-user.target.wants/logitd.service"))
        self.check_pages(system)
        self.check_completions(system)
        logits = self.out / "four.f32"
        logits.write_bytes(LOGITS)
        subprocess.run([*ROOT, "cp", logits, system.path / "four.f32"], check=True)
        answer = json.loads(system.run("logitd", "sample", "--logits=/four.f32", *QUESTION))
        self.assertEqual(answer["token"], TOKEN)
        self.check_service(system)
        system.run("dpkg", "--purge", "logitd")
        left = system.run("find", "/usr", "/etc", "/var/lib/logitd", "-iname", "*logitd*", check=False).split()
        # Its user stays, as those of other packages do, and what dpkg and systemd's helper know.
        self.assertEqual([path for path in left if not path.startswith("/var/lib/dpkg")], [])

    def check_pages(self, system: debian.Debian):
        commands = re.findall(r"^  (\w+) {2,}", system.run("logitd", "--help").split("Commands:")[1].split("Options:")[0], re.M)
        pages = system.run("ls", "/usr/share/man/man1").split()
        expected = ["logitd.1.gz", *(f"logitd-{command}.1.gz" for command in commands if command != "help")]
        self.assertEqual(set(expected) - set(pages), set())
        self.assertIn("drain\\-timeout", system.run("zcat", "/usr/share/man/man1/logitd-serve.1.gz"))

    def check_completions(self, system: debian.Debian):
        script = ("source /usr/share/bash-completion/completions/logitd\n"
                  "COMP_WORDS=(logitd serve --drain-t) COMP_CWORD=2\n"
                  "_logitd logitd --drain-t serve; echo ${COMPREPLY[@]}")
        self.assertEqual(system.run("bash", "-c", script).strip(), "--drain-timeout")

    def check_service(self, system: debian.Debian):
        """What the unit does, by hand: the folder, the user, the command."""
        unit = (DEPLOY / "systemd" / "logitd.service").read_text()
        command = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].split()
        mode = re.search(r"^RuntimeDirectoryMode=(.*)$", unit, re.M)[1]
        system.run("install", "-d", "-o", "logitd", "-g", "logitd", "-m", mode, "/run/logitd")
        with open(self.out / "service.log", "wb") as log:
            server = subprocess.Popen([*ROOT, "chroot", "--userspec=logitd:logitd", system.path, *command, "--metrics-listen=127.0.0.1:0"],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            target = f"unix:{system.path}/run/logitd/logitd.sock"
            end = time.monotonic() + START_TIMEOUT_S
            while subprocess.run([*ROOT, "test", "-S", target.removeprefix("unix:")]).returncode and time.monotonic() < end:
                self.assertIsNone(server.poll(), (self.out / "service.log").read_text())
                time.sleep(0.05)
            self.assertEqual(system.run("stat", "-c", "%a %U %G", "/run/logitd/logitd.sock").strip(), "660 logitd logitd")
            done = subprocess.run([*ROOT, os.environ["LOGITD"], "sample", f"--target={target}", f"--logits={self.out / 'four.f32'}", *QUESTION],
                                  capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["token"], TOKEN)
        finally:
            subprocess.run([*ROOT, "kill", str(server.pid)], check=True)
            self.assertEqual(server.wait(60), 0)

    def test_the_image_samples(self):
        archive = self.out / "logitd.tar"
        subprocess.run([*ROOT, DEPLOY / "image" / "build", self.package, archive], check=True, capture_output=True)
        image = self.unpack(archive)
        settings = image["config"]
        self.assertEqual(settings["User"], "65532:65532")
        root = self.out / "image"
        (root / "four.f32").write_bytes(LOGITS)
        command = [*ROOT, "chroot", f"--userspec={settings['User']}", root, *settings["Entrypoint"]]
        done = subprocess.run([*command, "sample", "--logits=/four.f32", *QUESTION], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["token"], TOKEN)
        # The default command begins to serve: it is told to stop at once, and drains.
        done = subprocess.run(["timeout", "--foreground", "--preserve-status", "2", *command, *settings["Cmd"], "--listen=127.0.0.1:0"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("listening", done.stderr)

    def unpack(self, archive: pathlib.Path) -> dict:
        """Makes a folder of the image's one layer, and returns its settings."""
        subprocess.run(["tar", "-xf", archive, "-C", self.out], check=True)
        blob = lambda digest: self.out / "blobs" / digest.replace(":", "/")
        index = json.loads((self.out / "index.json").read_text())
        manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
        layer, = manifest["layers"]
        root = self.out / "image"
        root.mkdir()
        subprocess.run(["tar", "-xf", blob(layer["digest"]), "-C", root], check=True)
        return json.loads(blob(manifest["config"]["digest"]).read_text())
