"""Rules and dashboard by promtool, and by a real Prometheus that scrapes a server on a bad day."""

import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import trustme
import yaml

from deployed import DEPLOY
from replica import Replica, free_port
from trouble import Connection

RULES = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana" / "logitd.json").read_text())
WAIT_S = 30

# What a bad day without a GPU does not move: nothing is copied to the processor, and it does not break.
STILL = {"logitd_copy_seconds_sum", "logitd_device_up", "logitd_kernel_tier", "logitd_parity_mismatches_total"}

# SampleRequest: dtype F32, vocab_size 8, 32 bytes of logits. Its answer fits no window of 0.
SAMPLE_REQUEST = b"\x08\x03\x10\x08\x1a\x20" + bytes(32)
# VerifyRequest: the same of three rows that are sure of token 0, and a sequence in MATCH with two drafts of it.
VERIFY_REQUEST = b"\x08\x03\x10\x08\x1a\x60" + 3 * struct.pack("<8f", 1000, *[0] * 7) + b"\x3a\x0c\x18\x01\x22\x08" + bytes(8)


def alerts() -> dict[str, str]:
    """Expressions by the names of the alerts."""
    groups = yaml.safe_load((RULES / "logitd.rules.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def queries() -> list[str]:
    """What the dashboard asks, for all servers."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [query.replace("$instance", ".*").replace("$__rate_interval", "5s") for query in found]


class Promtool(unittest.TestCase):
    def test_rules_and_configuration_are_valid(self):
        for arguments in (["check", "rules", "logitd.rules.yml"], ["check", "config", "prometheus.yml"]):
            self.promtool(*arguments)

    def test_every_alert_fires_when_it_should_and_not_before(self):
        tests = yaml.safe_load((RULES / "logitd.test.yml").read_text())["tests"]
        fired = [{each["alertname"] for each in test["alert_rule_test"] if each.get("exp_alerts")} for test in tests]
        quiet = [{each["alertname"] for each in test["alert_rule_test"] if not each.get("exp_alerts")} for test in tests]
        self.assertEqual(set().union(*fired), set(alerts()))
        self.assertEqual(set().union(*quiet), set(alerts()))
        self.promtool("test", "rules", "logitd.test.yml")

    def promtool(self, *arguments: str):
        done = subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Prometheus:
    """A running Prometheus with the shipped configuration, which scrapes one server, and often."""

    def __init__(self, host: str, folder: pathlib.Path):
        self.host, self.folder = host, folder

    def __enter__(self) -> "Prometheus":
        settings = yaml.safe_load((RULES / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
        job, = settings["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [self.host]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        shutil.copy(RULES / "logitd.rules.yml", self.folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        with open(self.folder / "prometheus.log", "ab") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={self.folder / 'prometheus.yml'}",
                 f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={self.address}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait(f'up{{instance="{self.host}"}} == 1')
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def query(self, expression: str) -> list[dict]:
        """The series of its result now."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            answer = urllib.request.urlopen(f"http://{self.address}/api/v1/query?{query}", timeout=10)
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise ValueError(f"{expression}: {error.read().decode()}") from error
        return json.loads(answer.read())["data"]["result"]

    def wait(self, expression: str) -> list[dict]:
        """Waits until it has a result."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                if found := self.query(expression):
                    return found
            except urllib.error.URLError:
                pass
            time.sleep(0.1)
        raise TimeoutError(f"{expression} has no result:\n{(self.folder / 'prometheus.log').read_text()}")

    def moves(self, selector: str) -> bool:
        """Whether any of these series has had two values."""
        return bool(self.query(f"max_over_time({selector}[5m]) - min_over_time({selector}[5m]) > 0"))


class BadDay(unittest.TestCase):
    """A server with little room, whose log is not read, whose files are wrong and whose clients misbehave."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="logitd-prometheus-")
        cls.addClassCleanup(folder.cleanup)
        cls.path = pathlib.Path(folder.name)
        cls.authority = trustme.CA()
        cls.authority.cert_pem.write_to_path(cls.path / "ca.pem")
        cls.write_certificate(days=30)
        socket_path, shm_path = cls.path / "s", cls.path / "m"
        cls.server = Replica(
            "127.0.0.11", free_port(), cls.path,
            f"--tls-cert={cls.path / 'cert.pem'}", f"--tls-key={cls.path / 'key.pem'}",
            f"--listen=unix:{socket_path}", f"--shm=unix:{shm_path}", "--shm-connections-max=4",
            "--queue-rows-max=16", "--request-rows-max=16", "--batch-delay-us=20000", "--verify-fraction=1",
            "--connections-max=16", "--connection-idle-timeout=1s", "--stream-stall-timeout=1s",
            f"--record={cls.path / 'trace'}", "--record-file-bytes-max=4MiB")
        # Nobody reads the other end.
        cls.log, written = os.pipe()
        cls.addClassCleanup(os.close, cls.log)
        cls.addClassCleanup(cls.server.kill)
        cls.server.start(stderr=written, RUST_LOG="trace")
        os.close(written)
        cls.target = f"unix:{socket_path}"
        cls.prometheus = Prometheus(cls.server.metrics_host, cls.path).__enter__()
        cls.addClassCleanup(cls.prometheus.__exit__)
        cls.misbehave()

    @classmethod
    def write_certificate(cls, days: int):
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
        certificate = cls.authority.issue_cert("127.0.0.11", not_after=end)
        certificate.private_key_pem.write_to_path(cls.path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(cls.path / "cert.pem")

    @classmethod
    def misbehave(cls):
        cls.load("--concurrency=4", "--duration=3s")
        # Large rows, which take longer to compare than to sample.
        cls.load("--concurrency=2", "--duration=1s", "--rows=8", vocab_size=128_256)
        cls.load("--concurrency=32", "--duration=1s")
        cls.load("--concurrency=8", "--duration=1s", "--timeout=5ms")
        cls.load("--concurrency=2", "--duration=1s", "--plane=shm", "--rpc=direct")
        cls.load("--concurrency=16", "--duration=1s", "--plane=shm", "--rpc=direct")
        cls.command("tune", f"--target={cls.target}", "--search=random", "--sets=64", f"--study={cls.path / 'study'}")
        cls.verify()
        silent = Connection(cls.server.host, str(cls.path / "ca.pem"))
        silent.call(1, SAMPLE_REQUEST)
        # Two whose messages do not come in time, one after the other: a series begins with its first event.
        silent.begin(3, ("grpc-timeout", "10m"))
        cls.prometheus.wait('logitd_requests_total{code="DEADLINE_EXCEEDED"}')
        silent.begin(5, ("grpc-timeout", "10m"))
        for _ in range(24):
            address, port = cls.server.host.split(":")
            socket.create_connection((address, int(port))).close()
        held = [socket.create_connection((address, int(port))) for _ in range(24)]
        cls.prometheus.wait("logitd_answers_cut_total > 0 and logitd_connections_refused_total > 0")
        for each in held:
            each.close()
        cls.prometheus.wait("logitd_connections_idle_total > 0")
        silent.close()
        cls.write_certificate(days=20)
        cls.server.send(signal.SIGHUP)
        cls.prometheus.wait('logitd_reloads_total{result="ok"} > 0')
        (cls.path / "cert.pem").write_text("no certificate")
        cls.server.send(signal.SIGHUP)
        cls.prometheus.wait('logitd_reloads_total{result="failed"} > 0')

    @classmethod
    def verify(cls):
        """Has drafts verified, twice: a series begins with its first event."""
        verifier = Connection(cls.server.host, str(cls.path / "ca.pem"))
        verifier.call(1, VERIFY_REQUEST, "Verify")
        cls.prometheus.wait("logitd_drafts_accepted_total == 2")
        verifier.call(3, VERIFY_REQUEST, "Verify")
        cls.prometheus.wait("logitd_drafts_accepted_total == 4")
        verifier.close()

    @classmethod
    def load(cls, *flags: str, vocab_size: int = 4096):
        cls.command("load", f"--target={cls.target}", f"--vocab-size={vocab_size}", "--warmup=0s", *flags)

    @classmethod
    def command(cls, *arguments: str):
        """Runs a command; refusals are what is wanted."""
        done = subprocess.run([os.environ["LOGITD"], *arguments], cwd=cls.path, capture_output=True, text=True, timeout=60)
        if done.returncode == 2:
            raise RuntimeError(f"{arguments}: {done.stderr}")

    def test_every_metric_of_rules_and_dashboard_is_there_and_moves(self):
        everything = [*alerts().values(), *queries()]
        selectors = set(re.findall(r"logitd_\w+(?:\{[^}]*\})?", "\n".join(everything)))
        self.assertGreater(len(selectors), 30)
        for selector in sorted(selectors):
            with self.subTest(selector):
                name = selector.split("{")[0]
                self.assertTrue(self.prometheus.query(f"last_over_time({selector}[5m])"))
                self.assertEqual(self.prometheus.moves(selector), name not in STILL)

    def test_the_dashboard_has_something_to_show(self):
        for query in queries():
            with self.subTest(query):
                wide = query.replace("[5s]", "[5m]")
                values = [series["value"][1] for series in self.prometheus.query(wide)]
                self.assertTrue(values)
                self.assertNotIn("NaN", values)

    def test_the_dashboard_shows_every_metric(self):
        readme = (DEPLOY.parent / "README.md").read_text()
        named = set(re.findall(r"^\| `(logitd_\w+)", readme, re.M))
        shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"logitd_\w+", "\n".join(queries()))}
        self.assertEqual(named - shown, set())

    def test_when_it_is_gone_that_is_noticed(self):
        self.server.kill()
        self.prometheus.wait('ALERTS{alertname="LogitdDown"}')
