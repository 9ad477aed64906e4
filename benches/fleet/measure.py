"""What capacity is planned from: python benches/fleet/measure.py PATH-TO-LOGITD cost|confirm

`cost` prints the processor time that a row takes of the server and of Envoy, by the way that its logits come. `confirm` calibrates the
simulation with a few calls, and compares what it says of more of them with servers behind Envoy. Neither needs a quiet machine: the first
counts processor time, and the second has devices that are slow by nature.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile


ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests" / "fleet"))

from names import Names  # noqa: E402
from proxy import Proxy, config  # noqa: E402
from replica import Replica, free_port  # noqa: E402
from simulation import Fleet, Server, simulate  # noqa: E402

TICKS_S = os.sysconf("SC_CLK_TCK")
SECONDS = 6
CONFIRM_SECONDS = 20
SIMULATED = 100_000
VOCAB_SIZE = 65_536

# What `load` is told, and whether it goes through Envoy.
PLANES = {
    "inline, 1 row": (["--rows=1", "--concurrency=4"], False),
    "inline, 32 rows": (["--rows=32", "--concurrency=2"], False),
    "inline, 32 rows, stream": (["--rows=32", "--concurrency=2", "--rpc=stream"], False),
    "64 candidates, 1 row": (["--plane=candidates", "--rows=1", "--concurrency=8"], False),
    "64 candidates, 256 rows": (["--plane=candidates", "--rows=256", "--concurrency=2"], False),
    "shared memory, 32 rows": (["--plane=shm", "--rows=32", "--concurrency=2"], False),
    "shared memory, 32 rows, direct": (["--plane=shm", "--rpc=direct", "--rows=32", "--concurrency=2"], False),
    "inline, 1 row, Envoy": (["--rows=1", "--concurrency=4"], True),
    "inline, 32 rows, Envoy": (["--rows=32", "--concurrency=2"], True),
    "64 candidates, 1 row, Envoy": (["--plane=candidates", "--rows=1", "--concurrency=8"], True),
    "64 candidates, 256 rows, Envoy": (["--plane=candidates", "--rows=256", "--concurrency=2"], True),
}


def processor_s(process: subprocess.Popen) -> float:
    """Processor time that a process has taken."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def load(target: str, *flags: str) -> dict:
    """The first run of `logitd load`."""
    done = subprocess.run([os.environ["LOGITD"], "load", f"--target={target}", "--json", "--quiet", *flags],
                          capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)["runs"][0]


class Machines:
    """`with Machines(..) as machines:`; servers under one name, and Envoy in front."""

    def __init__(self, count: int, *flags: str, device: str = "cpu"):
        self.count, self.flags, self.device = count, flags, device

    def __enter__(self) -> "Machines":
        self.folder = tempfile.TemporaryDirectory(prefix="logitd-capacity-")
        path, port = pathlib.Path(self.folder.name), free_port()
        self.socket = f"unix:{path / 's'}"
        self.names = Names().__enter__()
        self.servers = []
        for i in range(self.count):
            more = [f"--listen={self.socket}", f"--shm=unix:{path / 'm'}"] if i == 0 else []
            server = Replica(f"127.0.0.{11 + i}", port, path, *more, *self.flags, device=self.device)
            server.start()
            self.servers.append(server)
            self.names.addresses.append(server.address)
        self.proxy = Proxy(config(port, self.names.port), path).__enter__()
        self.proxy.wait("servers", lambda: len(self.proxy.healthy()) == self.count)
        self.front = f"http://{self.proxy.host}"
        return self

    def __exit__(self, *_):
        self.proxy.__exit__()
        for server in self.servers:
            server.kill()
        self.names.__exit__()
        self.folder.cleanup()


def cost():
    print(f"{'microseconds of a processor, a row':<34}{'server':>8}{'Envoy':>8}{'load':>8}{'rows/s':>10}")
    for name, (flags, through) in PLANES.items():
        with Machines(1) as machines:
            server, proxy = machines.servers[0].process, machines.proxy.process
            target = machines.front if through else machines.socket if "shared" in name else f"http://{machines.servers[0].host}"
            load(target, *flags, "--duration=500ms")
            before = processor_s(server), processor_s(proxy), os.times().children_user + os.times().children_system
            run = load(target, *flags, "--warmup=0s", f"--duration={SECONDS}s")
            after = processor_s(server), processor_s(proxy), os.times().children_user + os.times().children_system
            spent = [(b - a) / run["rows"] * 1e6 for a, b in zip(before, after)]
            print(f"{name:<34}{spent[0]:>8.1f}{spent[1] if through else 0:>8.1f}{spent[2]:>8.1f}{run['rows_per_s']:>10,.0f}", flush=True)


# Servers, their device and flags, requests a second, and what the simulation is told of them beside.
FLEETS = [
    # The oracle sorts, so that a row takes milliseconds and the device is what is waited for; a row a batch.
    (1, "reference", ["--batch-rows-max=1", "--request-rows-max=1"], (30, 60, 90), {"batch_rows_max": 1}),
    (2, "reference", ["--batch-rows-max=1", "--request-rows-max=1"], (60, 90), {"batch_rows_max": 1}),
    # Batches wait for company or until they are full, which takes no processor.
    (3, "cpu", ["--batch-delay-us=50000", "--batch-rows-max=8", "--request-rows-max=8"], (60, 240, 600), {"batch_rows_max": 8, "delay_s": 0.05}),
]


def confirm():
    """Of each run the simulation is told the times that devices took, and the least that calls took beside; it says how long they waited."""
    print(f"{'servers  requests/s  busy':<28}{'waited, mean':>20}{'response, mean':>20}{'p50':>18}{'p90':>18}{'p99':>18}   said/measured, ms")
    for servers, device, flags, rates, known in FLEETS:
        with Machines(servers, *flags, device=device) as machines:
            for rate in rates:
                run = load(machines.front, f"--rate={rate}", f"--vocab-size={VOCAB_SIZE}", "--warmup=2s", f"--duration={CONFIRM_SECONDS}s")
                of_server, response = run["server"], run["response"]
                beside = (response["mean_us"] - of_server["queue"]["mean_us"] - of_server["compute"]["mean_us"]) / 1e6
                server = Server(0, 0, batch_times=spread(of_server["compute"]), **known)
                said = simulate(Fleet(servers, server, rate, beside_s=beside), SIMULATED)
                waited = said.mean - beside - sum(server.batch_times) / len(server.batch_times)
                pairs = [(waited, of_server["queue"]["mean_us"]), (said.mean, response["mean_us"]), (said.quantile(0.5), response["p50_us"]),
                         (said.quantile(0.9), response["p90_us"]), (said.quantile(0.99), response["p99_us"])]
                cells = [f"{a * 1e3:.1f}/{b / 1e3:.1f} {100 * (a * 1e6 / b - 1):+.0f}%" for a, b in pairs]
                print(f"{servers:>7}{rate:>12}{said.busy:>6.0%}   " + "".join(f"{cell:>20}" for cell in cells[:2])
                      + "".join(f"{cell:>18}" for cell in cells[2:]), flush=True)


def spread(times: dict) -> tuple[float, ...]:
    """A thousand equally likely times, in seconds, with these quantiles and this mean."""
    known = [(0, times["min_us"]), (0.5, times["p50_us"]), (0.9, times["p90_us"]), (0.99, times["p99_us"]), (1, times["max_us"])]
    values = []
    for i in range(1000):
        q = (i + 0.5) / 1000
        (low, a), (high, b) = next((one, two) for one, two in zip(known, known[1:]) if two[0] >= q)
        values.append(a + (b - a) * (q - low) / (high - low))
    scale = times["mean_us"] / (sum(values) / len(values))
    return tuple(value * scale / 1e6 for value in values)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("cost", "confirm"):
        sys.exit(__doc__)
    os.environ["LOGITD"] = str(pathlib.Path(sys.argv[1]).resolve())
    {"cost": cost, "confirm": confirm}[sys.argv[2]]()
