"""A fleet as events: open-loop callers, a balancer that sends each request to the less busy of two servers, and servers that take batches.

A server has one device. While that is busy rows wait; when it falls free it takes what waits, up to a batch. That is all there is to
it: what a request costs beside the device (wire, balancer, HTTP/2) is added to its time and takes nothing from others, so the simulation is
right only where those have processors to spare. docs/capacity.md says where they do not.
"""

import dataclasses
import heapq
import itertools
import random
from collections import deque


@dataclasses.dataclass(frozen=True)
class Server:
    """What a batch takes: a constant, and a time a row, or any of `batch_times`. `delay_s` is --batch-delay-us."""

    batch_s: float
    row_s: float
    batch_rows_max: int = 1024
    delay_s: float = 0.0
    batch_times: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fleet:
    """How many servers, who calls, and what a request takes beside the device."""

    servers: int
    server: Server
    rate: float
    rows: int = 1
    beside_s: float = 0.0


@dataclasses.dataclass
class Outcome:
    """Response times in seconds, in order of their size; rows a batch; the share of time that devices were busy."""

    responses: list[float]
    batch_rows: float
    busy: float

    def quantile(self, q: float) -> float:
        return self.responses[min(int(q * len(self.responses)), len(self.responses) - 1)]

    @property
    def mean(self) -> float:
        return sum(self.responses) / len(self.responses)


class _Device:
    """One server: requests that wait, by the time they came, and those that its device has."""

    def __init__(self):
        self.waiting: deque[float] = deque()
        self.running: list[float] = []
        self.active = 0
        self.due: float | None = None
        self.busy_s = 0.0
        self.batches = 0


def simulate(fleet: Fleet, requests: int, seed: int = 0) -> Outcome:
    """Lets so many requests come, and waits for them all. The first tenth is not measured."""
    random_ = random.Random(seed)
    devices = [_Device() for _ in range(fleet.servers)]
    order = itertools.count()
    events: list[tuple[float, int, str, int]] = []
    responses: list[float] = []
    came = 0
    at = 0.0

    def schedule(when: float, what: str, device: int = 0):
        heapq.heappush(events, (when, next(order), what, device))

    def consider(now: float, index: int):
        """Begins a batch, if the device is free and one is due."""
        device, server = devices[index], fleet.server
        if device.running or not device.waiting:
            return
        full = len(device.waiting) * fleet.rows >= server.batch_rows_max
        due = device.waiting[0] + server.delay_s
        if not full and due > now:
            if device.due != due:
                device.due = due
                schedule(due, "due", index)
            return
        taken = min(len(device.waiting), max(server.batch_rows_max // fleet.rows, 1))
        device.running = [device.waiting.popleft() for _ in range(taken)]
        took = server.batch_s + server.row_s * taken * fleet.rows
        if server.batch_times:
            took += random_.choice(server.batch_times)
        device.busy_s += took
        device.batches += 1
        schedule(now + took, "done", index)

    schedule(random_.expovariate(fleet.rate), "came")
    while events:
        at, _, what, index = heapq.heappop(events)
        if what == "came":
            # As Envoy does: two at random, which may be the same one.
            one, other = random_.randrange(fleet.servers), random_.randrange(fleet.servers)
            index = one if devices[one].active <= devices[other].active else other
            devices[index].waiting.append(at)
            devices[index].active += 1
            came += 1
            if came < requests:
                schedule(at + random_.expovariate(fleet.rate), "came")
        elif what == "done":
            device = devices[index]
            responses += [at - begun + fleet.beside_s for begun in device.running]
            device.active -= len(device.running)
            device.running = []
        consider(at, index)
    measured = responses[requests // 10:]
    return Outcome(sorted(measured), requests * fleet.rows / sum(device.batches for device in devices),
                   sum(device.busy_s for device in devices) / (at * fleet.servers))
