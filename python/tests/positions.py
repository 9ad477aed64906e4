"""The positions that the program carries (`assets/positions.digests`), as rows: real logits, and the token that came next.

A digest has a row's values and counts. A row that has its tokens in the total order has the same digest, with the rank of
the token that came next for its id.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from known import ROOT

FILE = ROOT / "assets" / "positions.digests"
MAGIC = b"logitd digests 1\n"


@dataclass(frozen=True)
class Positions:
    """Rows of float16 logits, the token after each, and a label each."""

    logits: np.ndarray
    references: np.ndarray
    groups: np.ndarray


@cache
def carried() -> Positions:
    """All 64 of them, of six kinds of text."""
    data = FILE.read_bytes()
    assert data.startswith(MAGIC)
    at = len(MAGIC)
    length = int.from_bytes(data[at : at + 4], "little")
    about = json.loads(data[at + 4 : at + 4 + length])
    at += 4 + length
    logits = np.full((about["rows"], about["vocab_size"]), -np.inf, np.float16)
    references, groups = np.empty(about["rows"], np.uint32), np.empty(about["rows"], np.uint32)
    for i in range(about["rows"]):
        length = int.from_bytes(data[at : at + 4], "little")
        numbers = list(_numbers(zlib.decompress(data[at + 4 : at + 4 + length])))
        at += 4 + length
        status, groups[i], references[i], count = numbers[:4]
        assert status == 0 and len(numbers) == 4 + 2 * count
        keys = (0xFFFF - np.cumsum(numbers[4 : 4 + count])).astype(np.uint16)
        # The order of floats as that of whole numbers: those below 0 are turned round.
        bits = np.where(keys >= 0x8000, keys ^ 0x8000, ~keys).astype(np.uint16)
        row = np.repeat(bits.view(np.float16), numbers[4 + count :])
        logits[i, : len(row)] = row
    return Positions(logits, references, groups)


def _numbers(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
