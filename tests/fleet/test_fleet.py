"""Servers behind the real Envoy, with the shipped configuration, are killed, stopped, frozen, added and replaced under load.

Every request must be answered in the end, and every answer be right to the bit. What callers waited is printed.
"""

import os
import pathlib
import signal
import tempfile
import unittest
from collections.abc import Callable

from load import Load, Outcome, Pace
from names import Names
from proxy import Proxy, config
from replica import Replica, free_port

LONG = bool(os.environ.get("CI_LONG"))
SECONDS = 20 if LONG else 6
ROUNDS = 3 if LONG else 1
PACE = Pace(rate=300) if LONG else Pace(rate=100, vocab_size=32_768)
# So many calls that hundreds are stuck in a server by the time that it is known to be frozen.
MANY = Pace(rate=300) if LONG else Pace(rate=400, vocab_size=4096)
REPLICAS = 3
# How a line of progress begins: the seconds that have passed.
PROGRESS = tuple("0123456789")


class Fleet:
    """`with Fleet() as fleet:`; three servers, their name, and Envoy in front."""

    def __init__(self, change: Callable[[dict], None] = lambda settings: None):
        self.change = change

    def __enter__(self) -> "Fleet":
        self.folder = tempfile.TemporaryDirectory(prefix="logitd-fleet-")
        self.path = pathlib.Path(self.folder.name)
        self.port = free_port()
        self.names = Names()
        self.names.__enter__()
        self.replicas: list[Replica] = []
        for _ in range(REPLICAS):
            self.add()
        self.proxy = Proxy(config(self.port, self.names.port, self.change), self.path)
        self.proxy.__enter__()
        self.wait_healthy()
        return self

    def __exit__(self, *_):
        self.proxy.__exit__()
        for replica in self.replicas:
            replica.kill()
        self.names.__exit__()
        self.folder.cleanup()

    def add(self, *flags: str) -> Replica:
        """One more server, under the name of all."""
        replica = Replica(f"127.0.0.{11 + len(self.replicas)}", self.port, self.path, *flags)
        replica.start()
        self.replicas.append(replica)
        self.names.addresses.append(replica.address)
        return replica

    def remove(self, replica: Replica):
        """It is under that name no longer, and ends."""
        self.names.addresses.remove(replica.address)
        replica.kill()
        self.replicas.remove(replica)

    def wait_healthy(self):
        """Until Envoy sends calls to all of them."""
        expected = {replica.host for replica in self.replicas}
        self.proxy.wait(f"calls for {expected}", lambda: self.proxy.healthy() == expected)


class UnderLoad(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.fleet = Fleet().__enter__()
        cls.addClassCleanup(cls.fleet.__exit__)

    def load(self, event: str, act: Callable[[], None], pace: Pace = PACE, seconds: float = SECONDS) -> Outcome:
        """Load for some seconds, and after the first of them what happens."""
        load = Load(self.fleet.proxy.host, pace, seconds)
        act()
        return self.check(event, load.end(), 0.5 * pace.rate * seconds)

    def check(self, event: str, outcome: Outcome, least: float = PACE.rate) -> Outcome:
        """Nothing is lost, and nothing is wrong; and there were calls."""
        print(f"\n{event:<22} {outcome}", end=" ", flush=True)
        self.assertEqual(outcome.lost, 0, outcome.run["failures"])
        self.assertEqual(outcome.check["answers"], outcome.run["answered"])
        self.assertEqual(outcome.check["rows_wrong"], 0)
        self.assertGreater(outcome.run["answered"], least)
        return outcome

    def test_nothing_happens(self):
        before = [replica.requests() for replica in self.fleet.replicas]
        self.load("nothing", lambda: None)
        answered = [replica.requests() - count for replica, count in zip(self.fleet.replicas, before)]
        # All of them work.
        self.assertGreater(min(answered), sum(answered) / 10, answered)

    def test_one_is_killed(self):
        for replica in self.fleet.replicas[:ROUNDS]:
            self.load("kill -9", replica.kill)
            replica.start()
            self.fleet.wait_healthy()

    def test_one_leaves(self):
        for replica in self.fleet.replicas[:ROUNDS]:
            self.load("SIGTERM", lambda: replica.send(signal.SIGTERM))
            self.assertEqual(replica.stopped(), 0)
            replica.start()
            self.fleet.wait_healthy()

    def test_one_is_frozen(self):
        for replica in self.fleet.replicas[:ROUNDS]:
            try:
                self.load("SIGSTOP", lambda: replica.send(signal.SIGSTOP), MANY)
                self.assertNotIn(replica.host, self.fleet.proxy.healthy())
            finally:
                replica.send(signal.SIGCONT)
            self.fleet.wait_healthy()

    def test_one_is_added(self):
        self.load("one more", self.fleet.add)
        added = self.fleet.replicas[-1]
        self.assertGreater(added.requests(), 0)
        self.fleet.remove(added)
        self.fleet.wait_healthy()

    def test_all_are_replaced(self):
        load = Load(self.fleet.proxy.host, PACE, (10 + 2 * SECONDS) * ROUNDS)
        for replica in self.fleet.replicas * ROUNDS:
            replica.send(signal.SIGTERM)
            self.assertEqual(replica.stopped(), 0)
            replica.start()
            self.fleet.wait_healthy()
        self.assertTrue(load.is_running(), "the load ended before all were replaced")
        self.check("all, one by one", load.end())

    def test_one_has_no_room(self):
        full = self.fleet.add("--queue-rows-max=1", "--request-rows-max=1", "--batch-delay-us=100000")
        self.fleet.wait_healthy()
        retried = self.fleet.proxy.count("upstream_rq_retry_success")
        self.load("one without room", lambda: None)
        refused = full.requests("RESOURCE_EXHAUSTED")
        print(f" {refused} refused by it", end=" ")
        self.assertGreater(refused, 0)
        self.assertGreater(self.fleet.proxy.count("upstream_rq_retry_success"), retried)
        self.fleet.remove(full)
        self.fleet.wait_healthy()


class Recorded(unittest.TestCase):
    def test_what_one_has_answered_another_answers_alike(self):
        with tempfile.TemporaryDirectory(prefix="logitd-fleet-") as folder:
            path, port = pathlib.Path(folder), free_port()
            trace = path / "requests.trace"
            one = Replica("127.0.0.11", port, path, f"--record={trace}")
            other = Replica("127.0.0.12", port, path, "--isa=portable")
            self.addCleanup(one.kill)
            self.addCleanup(other.kill)
            one.start()
            other.start()
            answered = Load(one.host, PACE, 2).end().run["answered"]
            one.send(signal.SIGTERM)
            self.assertEqual(one.stopped(), 0)
            outcome = Load.of_trace(other.host, trace).end()
            self.assertEqual(outcome.lost, 0)
            self.assertEqual(outcome.check["answers"], answered)
            self.assertEqual(outcome.check["rows_wrong"], 0)


class WithoutSettings(unittest.TestCase):
    """What the settings are for: without them calls are lost."""

    def lost(self, change: Callable[[dict], None], number: signal.Signals, idle: bool) -> int:
        """Calls lost where a server gets this signal, under load, or, `idle`, is gone before there is any."""
        with Fleet(change) as fleet:
            if idle:
                fleet.replicas[0].send(number)
                fleet.replicas[0].stopped()
            early = 0
            while not (load := Load(fleet.proxy.host, PACE, SECONDS)).first.strip().startswith(PROGRESS):
                # Its very first call, which asks what the server is, was lost.
                load.process.wait()
                early += 1
            if not idle:
                fleet.replicas[0].send(number)
            return early + load.end().lost

    def test_retries(self):
        lost = self.lost(without_retries, signal.SIGKILL, idle=False)
        print(f"{lost} lost", end=" ")
        self.assertGreater(lost, 0)

    def test_health_checks_without_traffic(self):
        def without(settings: dict):
            without_retries(settings)
            check, = settings["static_resources"]["clusters"][0]["health_checks"]
            del check["no_traffic_interval"], check["no_traffic_healthy_interval"]

        lost = self.lost(without, signal.SIGTERM, idle=True)
        kept = self.lost(without_retries, signal.SIGTERM, idle=True)
        print(f"{lost} lost, with them {kept}", end=" ")
        self.assertGreater(lost, 0)
        self.assertEqual(kept, 0)


def without_retries(settings: dict):
    """Takes the retries out."""
    listener, = settings["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"]


def load_tests(loader: unittest.TestLoader, _tests: unittest.TestSuite, _pattern: str) -> unittest.TestSuite:
    """What shows why settings are there runs in long mode only."""
    classes = [UnderLoad, Recorded, *([WithoutSettings] if LONG else [])]
    return unittest.TestSuite(loader.loadTestsFromTestCase(each) for each in classes)
