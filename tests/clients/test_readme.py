"""What README.md and ARCHITECTURE.md say: the example, flags and defaults, metrics, files and functions."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from daemon import Daemon

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


class Readme(unittest.TestCase):
    def test_the_rust_it_asks_for_is_the_one_that_cargo_asks_for(self):
        needed = re.search(r'^rust-version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
        self.assertIn(f"With Rust {needed} or later", README)

    def test_the_tests_that_the_table_of_controls_names_exist(self):
        table = re.search(r"^### Controls, beside those of others\n(.*?)^What logitd", README, re.M | re.S)[1]
        cells = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| ")]
        named = [re.fullmatch(r"yes: \[`(\w+)`\]\((\S+)\)", cell) for cell in cells if cell.startswith("yes")]
        self.assertGreater(len(named), 10)
        for test in named:
            self.assertRegex((ROOT / test[2]).read_text(), rf"\b(fn|def) {test[1]}\(")

    def test_the_example_answers_as_printed(self):
        api = section("The API")
        command, = blocks(api, "sh")
        expected, = (json.loads(block) for block in blocks(api, "json"))
        with Daemon() as daemon:
            command = command.replace("127.0.0.1:50051", daemon.host)
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        del answer["timings"]
        self.assertEqual(answer, expected)

    def test_the_example_of_adjustments_answers_as_printed(self):
        self.check_command("Adjustments")

    def test_the_example_of_logprobs_answers_as_printed(self):
        self.check_command("Logprobs and kept tokens")

    def test_the_page_of_sentences_is_quoted_as_printed(self):
        quoted, = blocks(section("On whole sentences"), "text")
        printed = (ROOT / "core" / "examples" / "sentences" / "expected.txt").read_text()
        self.assertTrue(printed.endswith(quoted), quoted)

    def check_command(self, name):
        text = section(name)
        command, = blocks(text, "sh")
        expected, = (json.loads(block) for block in blocks(text, "json"))
        command = command.replace("logitd ", os.environ["LOGITD"] + " ")
        with tempfile.TemporaryDirectory() as directory:
            done = subprocess.run(["bash", "-c", command], cwd=directory, capture_output=True, text=True,
                                  timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout), expected)

    def test_every_default_in_the_table_of_limits_is_the_real_one(self):
        help_text = self.help("serve")
        table = re.findall(r"^\| `(--[a-z-]+)` \| (\S+) \|", section("Limits"), re.M)
        self.assertGreater(len(table), 15)
        for flag, default in table:
            entry = re.search(rf"^ +{flag} <.*?(?=^ +--|\Z)", help_text, re.M | re.S)
            self.assertIsNotNone(entry, f"{flag} is not a flag of serve")
            self.assertIn(f"[default: {default}]", entry[0], flag)

    def test_every_flag_it_names_exists(self):
        known = set().union(*(re.findall(r"--[a-z][a-z-]+", self.help(command))
                              for command in ["serve", "sample", "verify", "info", "tune", "digest", "load"]))
        others = {"--release", "--bench", "--example", "--protocol", "--http2-prior-knowledge", "--help"}
        others.add("--command")  # python -m logitd.tune
        named = set(re.findall(r"--[a-z][a-z0-9-]+", README)) - others
        self.assertEqual(named - known, set())

    def test_the_commands_are_all_there_are(self):
        named = re.findall(r"^\| `(\w+)[ `]", section("The command line"), re.M)
        real = re.findall(r"^  (\w+) {2,}", self.help().split("Commands:")[1].split("Options:")[0], re.M)
        self.assertEqual(sorted(named), sorted(set(real) - {"help"}))

    def test_the_settings_of_envoy_that_it_names_are_those_that_are_deployed(self):
        deployed = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text()
        balanced = re.search(r"^- .*deploy/envoy/envoy.yaml.*\n(?:  .*\n)*", section("Operations"), re.M)[0]
        named = set(re.findall(r"`(\w+_\w+)`", balanced))
        self.assertIn("no_traffic_interval", named)
        self.assertEqual({name for name in named if f"{name}:" not in deployed}, set())

    def test_the_metrics_are_all_there_are(self):
        named = set(re.findall(r"^\| `(logitd_\w+)", section("Metrics"), re.M))
        source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
        described = set(re.findall(r'describe_\w+!\(\s*"(logitd_\w+)"', source))
        self.assertGreater(len(described), 10)
        self.assertEqual(named, described)

    def help(self, *command: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LOGITD_")}
        return subprocess.run([os.environ["LOGITD"], *command, "--help"], env=environment, check=True,
                              capture_output=True, text=True, timeout=60).stdout


class Architecture(unittest.TestCase):
    def test_every_file_it_names_is_there(self):
        named = set(re.findall(r"`([\w./]+(?:\.rs|\.py|\.md|/))`", ARCHITECTURE))
        self.assertGreater(len(named), 40)
        core = ROOT / "core" / "src"
        python = ROOT / "python"
        folders = [ROOT, ROOT / "src", ROOT / "client" / "src", core, core / "backend", core / "backend" / "cpu",
                   python / "src", python / "src" / "client", python / "package" / "logitd",
                   python / "package" / "logitd" / "tune"]
        missing = {name for name in named if not any((folder / name).exists() for folder in folders)}
        self.assertEqual(missing, set())

    def test_every_function_it_names_is_there(self):
        packages = [ROOT / "src", *(ROOT / package / "src" for package in ("client", "core", "proto"))]
        sources = "".join(path.read_text() for package in packages for path in package.rglob("*.rs"))
        named = set(re.findall(r"`[A-Z]?\w+::(\w+)`", ARCHITECTURE)) - {"cut", "draw", "Error"}
        self.assertGreater(len(named), 12)
        self.assertEqual({name for name in named if not re.search(rf"\bfn {name}\b", sources)}, set())
