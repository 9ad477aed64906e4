"""What can be asked of the distributions of a row, beside its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._native import _Array, _Distribution

__all__ = ["Logprobs"]


@dataclass(frozen=True)
class Logprobs:
    """Asks for logprobs, ranks and entropy: `logitd.sample(x, logprobs=Logprobs("raw", top=20))`.

    They are in `Results.raw`, `Results.adjusted` and `Results.sampled`.
    """

    of: _Distribution | Sequence[_Distribution]
    """The distributions: raw (the logits as they came, at temperature 1), adjusted (what the cuts are given, at the row's
    temperature), sampled (the kept tokens, at the row's temperature)."""
    top: int = 0
    """How many first tokens of each: up to 1024."""
    ids: Sequence[int] | _Array = ()
    """Tokens by their ids, whatever is drawn: up to 1024."""
