"""Exact, replayable token sampling: logits in, tokens out, the same bits on every machine.

    import logitd
    results = logitd.sample(x, temperature=0.8, top_k=50, top_p=0.95, seed=7)
    results.tokens

and the same of a server: `logitd.Client("unix:/run/logitd/logitd.sock").sample(x, temperature=0.8)`.

`x` is a numpy array or a torch tensor of float16, bfloat16 or float32 logits, a row for each sequence.
"""

import enum

from . import errors
from ._evaluate import Evaluation, References, evaluate
from ._native import (
    BeamGroup,
    BeamSearch,
    BeamText,
    Client,
    Continuations,
    Distribution,
    History,
    Results,
    RowError,
    Sampler,
    Staging,
    Verified,
    __version__,
    arithmetic_version,
    beam_step,
    fields,
    sample,
    verify,
)
from .aio import AsyncClient
from .drafts import DraftLogits
from .logprobs import Logprobs
from .server import Server

__all__ = [
    "AsyncClient",
    "BeamGroup",
    "BeamSearch",
    "BeamText",
    "Client",
    "Continuations",
    "Distribution",
    "DraftLogits",
    "Evaluation",
    "History",
    "Logprobs",
    "References",
    "Results",
    "RowError",
    "Sampler",
    "Server",
    "Staging",
    "Status",
    "Verified",
    "__version__",
    "arithmetic_version",
    "beam_step",
    "errors",
    "evaluate",
    "fields",
    "sample",
    "verify",
]


class Status(enum.IntEnum):
    """What became of a row."""

    OK = 0
    """It has a token."""
    NAN = 1
    """A logit is NaN."""
    POSITIVE_INFINITY = 2
    """A logit is +inf, and none is NaN."""
    NO_CANDIDATE = 3
    """Every logit is -inf."""
    INVALID_PARAMETERS = 4
    """Its parameters or adjustments are wrong; only with `on_invalid_row="status"`."""
