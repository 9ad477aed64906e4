"""Machines for so many rows a second: python benches/fleet/plan.py prints the tables of docs/capacity.md.

Only measured costs go in (`measure.py cost`); the rest is division.
"""

import dataclasses
import math

from simulation import Fleet, Server, simulate

VOCAB_SIZE = 128_256
CANDIDATES = 64
ROW_BYTES = 2 * VOCAB_SIZE
# (token, logit) of each, and parameters: what `load --plane candidates` sends.
CANDIDATES_BYTES = 388
RATES = (10_000, 100_000, 1_000_000)

CORES = 16
WIRE_GBIT = 25
SHARE = 0.6  # of a bound that is planned with
SPARE = 1


@dataclasses.dataclass(frozen=True)
class Way:
    """Microseconds of a processor a row, in the server and in Envoy, and what crosses the wire."""

    name: str
    server_us: float
    envoy_us: float
    wire_bytes: int


WAYS = [
    Way("logits in the message, 1 row a call", 129.1, 130.8, ROW_BYTES),
    Way("logits in the message, 32 rows a call", 119.6, 133.7, ROW_BYTES),
    Way(f"{CANDIDATES} candidates, 1 row a call", 38.8, 42.8, CANDIDATES_BYTES),
    Way(f"{CANDIDATES} candidates, 256 rows a call", 2.9, 0.6, CANDIDATES_BYTES),
    Way("shared memory, direct calls, 32 rows a call", 16.0, 0, 0),
]


def rows_of_processor(us: float) -> float:
    """Rows a second that a machine's processors have time for."""
    return CORES / us * 1e6


def rows_of_wire(row_bytes: int) -> float:
    """Rows a second that fit the wire, one way."""
    return WIRE_GBIT * 1e9 / 8 / row_bytes if row_bytes else math.inf


def machines(rate: float, us: float, row_bytes: int) -> int:
    """How many are needed at their share, without spares."""
    if us == 0:
        return 0
    return math.ceil(rate / (SHARE * min(rows_of_processor(us), rows_of_wire(row_bytes))))


def bounds() -> str:
    lines = ["| way | processors of a server | its wire | what binds | processors of Envoy |", "|---|---|---|---|---|"]
    for way in WAYS:
        processor, wire = rows_of_processor(way.server_us), rows_of_wire(way.wire_bytes)
        envoy = f"{rows_of_processor(way.envoy_us):,.0f}" if way.envoy_us else "none"
        binds = "the wire" if wire < processor else "processors"
        lines.append(f"| {way.name} | {processor:,.0f} | {f'{wire:,.0f}' if way.wire_bytes else 'none'} | {binds} | {envoy} |")
    return "\n".join(lines)


def fleets() -> str:
    lines = ["| way | " + " | ".join(f"{rate:,} rows/s" for rate in RATES) + " |", "|---|" + "---|" * len(RATES)]
    for way in WAYS:
        cells = []
        for rate in RATES:
            servers, envoys = machines(rate, way.server_us, way.wire_bytes), machines(rate, way.envoy_us, way.wire_bytes)
            cells.append(f"{servers + SPARE} + {envoys + SPARE}" if envoys else f"{rate * way.server_us / 1e6:.2g} cores")
        lines.append(f"| {way.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def waits() -> str:
    """Waits in units of a row's time on the device: whole, and with a server less."""
    lines = ["| servers | busy | mean wait | p99 | with one less: busy | mean wait | p99 |", "|---|---|---|---|---|---|---|"]
    for servers in (3, 5, 15):
        for busy in (0.3, 0.6):
            cells = []
            for left in (servers, servers - 1):
                outcome = simulate(Fleet(left, Server(0, 1, batch_rows_max=1), rate=busy * servers), 100_000)
                cells.append(f"{busy * servers / left:.0%} | {outcome.mean - 1:.2f} | {outcome.quantile(0.99) - 1:.1f}")
            lines.append(f"| {servers} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join([bounds(), fleets(), waits()]))
