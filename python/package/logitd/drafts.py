"""What drafts were drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._native import Controls, _Logits

__all__ = ["DraftLogits"]


class DraftLogits:
    """Rows of a draft model, from each of which `logitd.sample` drew a draft with these controls.

    `logitd.verify(.., mode="rejection", distributions=DraftLogits(rows, temperature=0.8))` has a row for each draft of all
    sequences, with as many logits as the rows to be verified and stored as these are. Seeds and positions are not read: they are
    those of the sequence at the draft's place.
    """

    def __init__(self, logits: _Logits, /, **controls: Unpack[Controls]) -> None:
        self.logits = logits
        self.controls: dict[str, Any] = dict(controls)

    def __repr__(self) -> str:
        controls = "".join(f", {name}={value!r}" for name, value in self.controls.items())
        return f"DraftLogits(..{controls})"
