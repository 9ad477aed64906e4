"""What sets of sampling parameters come to over rows whose next token is known."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import _native

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ._native import _Ids, _Logits, _ToList

    _Axis: TypeAlias = float | Sequence[float | None] | _ToList | None
    _Metric: TypeAlias = Literal["nll", "brier", "coverage", "tail", "entropy", "choices", "surprise", "mean_kept"]
    _Sets: TypeAlias = Iterable[Mapping[str, Any]] | Mapping[str, Any] | npt.NDArray[Any] | None
    _WholeAxis: TypeAlias = int | Sequence[int | None] | _ToList | None

__all__ = ["METRICS", "ROWS", "SUMS", "Evaluation", "References", "evaluate"]

METRICS = ("nll", "brier", "coverage", "tail", "entropy", "choices", "surprise", "mean_kept")
"""What is measured of a set, by the names of `logitd tune`."""

SUMS = ("rows", "rows_failed", "hits", "kept", "logprob_q32", "probability_q32", "entropy_q32", "surprise_q32", "collision_q32", "tail_q32")
"""What is summed for each label."""
ROWS = ("row_kept", "row_kept_mass", "row_logprob")
"""What is said of each row and set, if that was asked for."""

_UNIT = 2.0**-32
_LN_2 = math.log(2.0)


@dataclass(frozen=True, eq=False)
class References:
    """What is said of each row whatever the sets are: at temperature 1, without cuts."""

    status: npt.NDArray[np.uint8]
    """What became of the row, a `Status`. Rows that are not OK are counted in `rows_failed` and left out of all sums."""
    rank: npt.NDArray[np.int64]
    """How many tokens come before the reference token in the total order; -1 where the row has no token."""
    logprob: npt.NDArray[np.float32]
    """The reference token's logprob; NaN where the row has no token."""
    entropy: npt.NDArray[np.float32]
    """The row's entropy in nats; NaN where the row has no token."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `logitd.evaluate` found: sums of integers, `[groups, sets]`, and means of them, `[sets]`.

    However rows are spread over calls, their sums add up to the same: `one + other` is what one call would have said of both. Means are NaN where no row has a token.
    """

    params: dict[str, npt.NDArray[Any]]
    """The sets: a column for each of temperature, top_k (0 is off), top_p (1 is off), min_p (0 is off), and of what else any of them has."""
    references: References
    """What is said of each row whatever the sets are."""
    vocab_size: int
    """Tokens of a row."""
    tail_share: float
    """The share of the model's own probability below which a token is of a row's tail."""
    groups: npt.NDArray[np.uint32]
    """The labels that occur, ascending."""
    rows: npt.NDArray[np.uint64]
    """Rows of each label that have a token: these are what was summed."""
    rows_failed: npt.NDArray[np.uint64]
    """Rows of each label that have none."""
    hits: npt.NDArray[np.uint64]
    """References that are kept."""
    kept: npt.NDArray[np.uint64]
    """Kept tokens."""
    logprob_q32: npt.NDArray[np.int64]
    """The logprob among the kept of references that are kept, in units of 2^-32 nat."""
    probability_q32: npt.NDArray[np.uint64]
    """The probability of references, 0 where they are cut, in units of 2^-32."""
    entropy_q32: npt.NDArray[np.uint64]
    """The entropy of the kept tokens, in units of 2^-32 bit."""
    surprise_q32: npt.NDArray[np.uint64]
    """The mean surprise of what is drawn, at the model's own probabilities, in units of 2^-32 bit."""
    collision_q32: npt.NDArray[np.uint64]
    """The probability that two draws are the same token, in units of 2^-32."""
    tail_q32: npt.NDArray[np.uint64]
    """The share of draws that are of the row's tail, in units of 2^-32."""
    row_kept: npt.NDArray[np.uint32] | None
    """Kept tokens of each row and set, `[rows, sets]`, where `rows` asked for it; 0 where the row has no token."""
    row_kept_mass: npt.NDArray[np.uint64] | None
    """Their mass, as `Results.kept_mass` has it."""
    row_logprob: npt.NDArray[np.float32] | None
    """The reference's logprob among them: -inf where it is cut, NaN where the row has no token."""

    def __len__(self) -> int:
        """How many sets there are."""
        return len(self.params["temperature"])

    def __repr__(self) -> str:
        rows, failed = int(self.rows.sum()), int(self.rows_failed.sum())
        return f"Evaluation(sets={len(self)}, rows={rows}, failed={failed}, groups={len(self.groups)})"

    def __add__(self, other: Evaluation) -> Evaluation:
        """Both as one: the same sets over the rows of the one and then of the other, which may have other labels."""
        import numpy as np

        if not isinstance(other, Evaluation):
            return NotImplemented
        names = self.params | other.params
        differing = [name for name in names if not np.array_equal(self.params.get(name, ()), other.params.get(name, ()))]
        differing += [name for name in ("vocab_size", "tail_share") if getattr(self, name) != getattr(other, name)]
        if differing:
            raise ValueError(f"{differing[0]} of the two is not the same; allowed: evaluations of the same sets, vocab_size and tail_share")
        labels = np.union1d(self.groups, other.groups)

        def added(name: str) -> Any:
            own, more = getattr(self, name), getattr(other, name)
            total = np.zeros((len(labels), *own.shape[1:]), own.dtype)
            total[np.searchsorted(labels, self.groups)] += own
            total[np.searchsorted(labels, other.groups)] += more
            return total

        def joined(name: str) -> Any:
            own, more = getattr(self, name), getattr(other, name)
            return None if own is None or more is None else np.concatenate([own, more])

        said = [(getattr(self.references, field.name), getattr(other.references, field.name)) for field in fields(References)]
        return Evaluation(
            params=self.params,
            references=References(*map(np.concatenate, said)),
            vocab_size=self.vocab_size,
            tail_share=self.tail_share,
            groups=labels,
            **{name: added(name) for name in SUMS},
            **{name: joined(name) for name in ROWS},
        )

    def params_of(self, place: int) -> dict[str, Any]:
        """The parameters of a set as keywords: `logitd.sample(x, **found.params_of(found.nll.argmin()))`."""
        # As it is written: the double nearest to a float32 has more digits.
        read = {"top_k": int, "profile": str}
        return {name: read.get(name, float)(str(column[place])) for name, column in self.params.items()}

    def mean(self, metric: _Metric, *, miss_nats: float | None = None) -> npt.NDArray[np.float64]:
        """A metric of each set over all rows. `miss_nats` is what `nll` charges for a token that is cut: ln vocab_size."""
        return self._means(metric, miss_nats, lambda sums: sums.sum(axis=0))

    def by_group(self, metric: _Metric, *, miss_nats: float | None = None) -> npt.NDArray[np.float64]:
        """The same over the rows of each label: `[groups, sets]`."""
        return self._means(metric, miss_nats, lambda sums: sums if sums.ndim == 2 else sums[:, None])

    @property
    def nll(self) -> npt.NDArray[np.float64]:
        """Nats a token that the set gives to the text; a token that is cut costs ln vocab_size."""
        return self.mean("nll")

    @property
    def brier(self) -> npt.NDArray[np.float64]:
        """The expected squared distance between the distribution and the token that came."""
        return self.mean("brier")

    @property
    def coverage(self) -> npt.NDArray[np.float64]:
        """The share of tokens of the text that are kept."""
        return self.mean("coverage")

    @property
    def tail(self) -> npt.NDArray[np.float64]:
        """The share of draws that fall on tokens to which the model gives less than `tail_share`."""
        return self.mean("tail")

    @property
    def entropy(self) -> npt.NDArray[np.float64]:
        """Nats of choice a step."""
        return self.mean("entropy")

    @property
    def choices(self) -> npt.NDArray[np.float64]:
        """How many equally likely tokens would be drawn twice in a row as often."""
        return self.mean("choices")

    @property
    def surprise(self) -> npt.NDArray[np.float64]:
        """Nats that the model is surprised by what is drawn."""
        return self.mean("surprise")

    @property
    def mean_kept(self) -> npt.NDArray[np.float64]:
        """Kept tokens."""
        return self.mean("mean_kept")

    def _means(self, metric: str, miss_nats: float | None, summed: Any) -> npt.NDArray[np.float64]:
        def real(sums: npt.NDArray[Any]) -> Any:
            return summed(sums).astype("float64")

        # Not before it is needed: importing this package imports nothing else.
        import numpy as np

        rows = real(self.rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            if metric == "nll":
                miss = math.log(self.vocab_size) if miss_nats is None else miss_nats
                total = (rows - real(self.hits)) * miss - real(self.logprob_q32) * _UNIT
            elif metric == "brier":
                total = rows - 2.0 * (real(self.probability_q32) * _UNIT) + real(self.collision_q32) * _UNIT
            elif metric == "coverage":
                total = real(self.hits)
            elif metric == "tail":
                total = real(self.tail_q32) * _UNIT
            elif metric == "entropy":
                total = real(self.entropy_q32) * _UNIT * _LN_2
            elif metric == "choices":
                return rows / (real(self.collision_q32) * _UNIT)  # type: ignore[no-any-return]
            elif metric == "surprise":
                total = real(self.surprise_q32) * _UNIT * _LN_2
            elif metric == "mean_kept":
                total = real(self.kept)
            else:
                raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}")
            return total / rows  # type: ignore[no-any-return]


def evaluate(
    logits: _Logits,
    references: _Ids,
    sets: _Sets = None,
    *,
    temperature: _Axis = None,
    top_k: _WholeAxis = None,
    top_p: _Axis = None,
    min_p: _Axis = None,
    profile: str | Sequence[str] | None = None,
    top_n_sigma: _Axis = None,
    top_h: _Axis = None,
    top_a: _Axis = None,
    epsilon_cutoff: _Axis = None,
    eta_cutoff: _Axis = None,
    typical_p: _Axis = None,
    xtc_probability: _Axis = None,
    xtc_threshold: _Axis = None,
    dynatemp_range: _Axis = None,
    dynatemp_exponent: _Axis = None,
    groups: _Ids | None = None,
    tail_share: float = 1e-4,
    rows: bool = False,
    threads: int = 0,
    vocab_size: int | None = None,
) -> Evaluation:
    """Evaluates sets of sampling parameters over rows of logits, each with the token that came next.

    `logits` is what `logitd.sample` takes, `[rows, vocab_size]`; `references` is the token that came next, one a row;
    `groups` is a label a row, by which sums are kept apart. The sets are a list of dicts, columns (a dict, a structured
    array, a data frame), or every combination of the values of the axes, the last one changing fastest and `temperature`
    slowest. A parameter that is left out or None is off, the temperature 1. `xtc_probability` is 0 or 1: its coin belongs to
    a draw.

    `tail_share` is the share of the model's own probability below which a token counts as unlikely, `rows` asks for an
    answer a row and set too, `threads` is how many to compute with (0: one for each core), `vocab_size` says how many
    logits of a row count. The GIL is released; nobody may write to `logits` meanwhile.
    """
    axes = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "profile": profile,
        "top_n_sigma": top_n_sigma,
        "top_h": top_h,
        "top_a": top_a,
        "epsilon_cutoff": epsilon_cutoff,
        "eta_cutoff": eta_cutoff,
        "typical_p": typical_p,
        "xtc_probability": xtc_probability,
        "xtc_threshold": xtc_threshold,
        "dynatemp_range": dynatemp_range,
        "dynatemp_exponent": dynatemp_exponent,
    }
    options = _options(sets, axes, groups, tail_share, rows, threads, vocab_size)
    return _made(_native.evaluate(logits, references, options), tail_share)


def through(
    ask: Callable[[_Logits, _Ids, Mapping[str, Any]], dict[str, Any]],
    logits: _Logits,
    references: _Ids,
    sets: _Sets = None,
    *,
    groups: _Ids | None = None,
    tail_share: float = 1e-4,
    rows: bool = False,
    vocab_size: int | None = None,
    **axes: Any,
) -> Evaluation:
    """The same by somebody else: `Client.evaluate`."""
    return _made(ask(logits, references, _options(sets, axes, groups, tail_share, rows, 0, vocab_size)), tail_share)


async def through_async(
    ask: Callable[[_Logits, _Ids, Mapping[str, Any]], Awaitable[dict[str, Any]]],
    logits: _Logits,
    references: _Ids,
    sets: _Sets = None,
    *,
    groups: _Ids | None = None,
    tail_share: float = 1e-4,
    rows: bool = False,
    vocab_size: int | None = None,
    **axes: Any,
) -> Evaluation:
    """The same by somebody who is waited for: `AsyncClient.evaluate`."""
    return _made(await ask(logits, references, _options(sets, axes, groups, tail_share, rows, 0, vocab_size)), tail_share)


def _options(
    sets: _Sets, axes: Mapping[str, Any], groups: _Ids | None, tail_share: float, rows: bool, threads: int, vocab_size: int | None
) -> dict[str, Any]:
    return {
        "sets": sets,
        "axes": {name: values for name, values in axes.items() if values is not None},
        "groups": groups,
        "tail_share": tail_share,
        "rows": rows,
        "threads": threads,
        "vocab_size": vocab_size,
    }


def _made(found: dict[str, Any], tail_share: float) -> Evaluation:
    asked = {name: found.get(name) for name in ROWS}
    entropy_of_rows = found.pop("entropy")
    said = References(found.pop("status"), found.pop("rank"), found.pop("logprob"), entropy_of_rows)
    return Evaluation(references=said, tail_share=tail_share, **(found | asked))
