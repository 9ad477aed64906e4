import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, final, type_check_only

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, Self, Unpack

from ._evaluate import Evaluation, _Axis, _Sets, _WholeAxis
from .drafts import DraftLogits
from .logprobs import Logprobs

__all__ = [
    "Sampler",
    "Client",
    "AsyncConnection",
    "Task",
    "Staging",
    "Results",
    "Distribution",
    "Verified",
    "BeamGroup",
    "Continuations",
    "BeamSearch",
    "BeamText",
    "History",
    "RowError",
    "__version__",
    "arithmetic_version",
    "STATUSES",
    "ADJUSTMENTS",
    "OPTIONS",
    "sample",
    "verify",
    "beam_step",
    "evaluate",
    "fields",
]

@type_check_only
class _ArrayStruct(Protocol):
    """A numpy array."""
    @property
    def __array_struct__(self) -> Any: ...

@type_check_only
class _DLPack(Protocol):
    """A torch tensor, or what else shares its memory by DLPack."""
    def __dlpack__(self) -> Any: ...

@type_check_only
class _CudaArray(Protocol):
    """An array of CuPy or Numba, on a device."""
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

@type_check_only
class _ToList(Protocol):
    """An array of numbers, a value a row."""
    def tolist(self) -> Any: ...

_Logits: TypeAlias = _ArrayStruct | _DLPack | Buffer
_Array: TypeAlias = _ArrayStruct | _DLPack

# One for all rows, or one a row. None is the default.
_Number: TypeAlias = float | None | Sequence[float | None] | _ToList
_Whole: TypeAlias = int | None | Sequence[int | None] | _ToList
_Name: TypeAlias = str | None | Sequence[str | None]
_Distribution: TypeAlias = Literal["raw", "adjusted", "sampled"]
_Asked: TypeAlias = _Distribution | Logprobs | None
_AskedEach: TypeAlias = _Asked | Sequence[_Asked]
_Flag: TypeAlias = bool | None | Sequence[bool | None] | _ToList
_Ids: TypeAlias = Sequence[int] | _Array
_IdsEach: TypeAlias = _Ids | None | Sequence[_Ids | None]
_Sequences: TypeAlias = Sequence[_Ids]
_SequencesEach: TypeAlias = _Sequences | None | Sequence[_Sequences | None]
_Biases: TypeAlias = Mapping[int, float] | Sequence[tuple[int, float]]
_BiasesEach: TypeAlias = _Biases | None | Sequence[_Biases | None]
_Counts: TypeAlias = Mapping[int, int] | Sequence[tuple[int, int]]
_CountsEach: TypeAlias = _Counts | None | Sequence[_Counts | None]
_Mask: TypeAlias = bytes | _Ids
_MaskEach: TypeAlias = _Mask | None | Sequence[_Mask | None]

@type_check_only
class _Dry(TypedDict, total=False):
    """`dry={"multiplier": 0.8}` is the same as `dry_multiplier=0.8`."""

    multiplier: _Number
    base: _Number
    allowed_length: _Whole
    last_n: _Whole
    breakers: _SequencesEach

@type_check_only
class Controls(TypedDict, total=False):
    """What can be asked of rows; `logitd.fields()` has ranges and defaults. Only for type checkers."""

    # Parameters
    temperature: _Number
    top_k: _Whole
    top_p: _Number
    min_p: _Number
    seed: _Whole
    position: _Whole
    draws: _Whole
    draw_rule: _Name
    draft: _Flag
    repetition_penalty: _Number
    frequency_penalty: _Number
    presence_penalty: _Number
    no_repeat_ngram: _Whole
    min_tokens: _Whole
    dry_multiplier: _Number
    dry_base: _Number
    dry_allowed_length: _Whole
    dry_last_n: _Whole
    profile: _Name
    top_n_sigma: _Number
    top_h: _Number
    top_a: _Number
    epsilon_cutoff: _Number
    eta_cutoff: _Number
    typical_p: _Number
    mirostat_tau: _Number
    mirostat_eta: _Number
    mirostat_mu: _Number
    xtc_probability: _Number
    xtc_threshold: _Number
    adaptive_target: _Number
    adaptive_decay: _Number
    adaptive_sum: _Number
    adaptive_weight: _Number
    dynatemp_range: _Number
    dynatemp_exponent: _Number
    dry: _Dry | None
    # Adjustments: what is done to single logits
    allowed_bitmask: _MaskEach
    allowed_ids: _IdsEach
    banned_ids: _IdsEach
    bad_words: _SequencesEach
    stop_ids: _IdsEach
    logit_bias: _BiasesEach
    prompt: _IdsEach
    output: _IdsEach
    output_length: _Whole
    counts: _CountsEach
    history: History | None | Sequence[History | None]
    dry_breakers: _SequencesEach
    # Options: what is told beside tokens, and what holds for the whole call
    logprobs: _AskedEach
    return_kept: _Flag
    vocab_size: int | None
    on_invalid_row: Literal["refuse", "status"] | None

_Mode: TypeAlias = Literal["match", "rejection", "typical"]
_Drafts: TypeAlias = _Ids | Sequence[_Ids | None]
_Weights: TypeAlias = Mapping[int, int]
_Distributions: TypeAlias = DraftLogits | _Array | Sequence[DraftLogits | _Array | _Weights | None]

@type_check_only
class VerifyControls(Controls, total=False):
    """What can be asked of sequences with drafts: the controls of `sample`, one for all or one a sequence. Only for type checkers."""

    mode: _Mode | None | Sequence[_Mode | None]
    parents: _Drafts | None
    distributions: _Distributions | None
    typical_epsilon: _Number
    typical_delta: _Number
    row_allowed_bitmask: _MaskEach
    row_allowed_ids: _IdsEach
    row_banned_ids: _IdsEach

_Scores: TypeAlias = Sequence[int] | _Array | Sequence[Sequence[int] | _Array]

@type_check_only
class _Adjusting(TypedDict, total=False):
    """The controls that adjust logits, one for all rows or one a row."""

    repetition_penalty: _Number
    frequency_penalty: _Number
    presence_penalty: _Number
    no_repeat_ngram: _Whole
    min_tokens: _Whole
    dry_multiplier: _Number
    dry_base: _Number
    dry_allowed_length: _Whole
    dry_last_n: _Whole
    profile: _Name
    dry: _Dry | None
    allowed_bitmask: _MaskEach
    allowed_ids: _IdsEach
    banned_ids: _IdsEach
    bad_words: _SequencesEach
    stop_ids: _IdsEach
    logit_bias: _BiasesEach
    prompt: _IdsEach
    output: _IdsEach
    output_length: _Whole
    counts: _CountsEach
    history: History | None | Sequence[History | None]
    dry_breakers: _SequencesEach
    vocab_size: int | None

@type_check_only
class SearchControls(_Adjusting, total=False):
    """What a beam search can ask of its steps. Only for type checkers."""

    temperature: float | None
    normaliser: Literal["adjusted", "raw"] | None

@type_check_only
class BeamControls(SearchControls, total=False):
    """What can be asked of a step of beams. Only for type checkers."""

    beams: int
    eos_ids: _Ids | None

@type_check_only
class _Field(TypedDict):
    name: str
    default: float | int | str | None
    allowed: str
    about: str

class RowError(ValueError):
    """A row has no token: a logit is NaN or +inf, or no token is left."""

@final
class Results:
    """What became of the rows of a call, in their order. An array is made when it is first looked at."""

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The token of each row, the first one where it has several draws; -1 where there is none."""
    @property
    def logprobs(self) -> npt.NDArray[np.float32]:
        """The natural logarithm of the token's probability among the kept tokens; NaN where there is none."""
    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """The seed of each row: given again, with the same logits and parameters, it gives the same bits."""
    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """What became of each row, a `Status`."""
    @property
    def kept(self) -> npt.NDArray[np.uint32]:
        """How many tokens the cuts left."""
    @property
    def kept_mass(self) -> npt.NDArray[np.uint64]:
        """The mass of the kept tokens, in units of 2^-40 of the first token's."""
    @property
    def draws(self) -> npt.NDArray[np.int64]:
        """Every draw: `[rows, draws]`, where draws is the most that a row asked for; -1 behind those of a row."""
    @property
    def draw_logprobs(self) -> npt.NDArray[np.float32]:
        """Their logprobs, NaN where there is no token."""
    @property
    def raw(self) -> Distribution:
        """The model's own distribution, the logits as they came, where `logprobs` asked for it."""
    @property
    def adjusted(self) -> Distribution:
        """The distribution that the cuts are given, where `logprobs` asked for it."""
    @property
    def sampled(self) -> Distribution:
        """The distribution that tokens are drawn from, where `logprobs` asked for it."""
    @property
    def kept_ids(self) -> list[npt.NDArray[np.uint32] | None]:
        """The kept tokens of each row, ascending, where `return_kept` asked for them and the row has a token, else None."""
    @property
    def kept_bitmask(self) -> npt.NDArray[np.uint32]:
        """The same as `[rows, words]` of 32 tokens each, the first in the lowest bit; all 0 where there are none."""
    @property
    def mirostat_mu(self) -> npt.NDArray[np.float32]:
        """The state of mirostat after each row: what the next row of its sequence has as `mirostat_mu`; NaN where a row has none."""
    @property
    def adaptive_sum(self) -> npt.NDArray[np.float32]:
        """The state of adaptive-p after each row: what the next row of its sequence has as `adaptive_sum`; NaN where a row has none."""
    @property
    def adaptive_weight(self) -> npt.NDArray[np.float32]:
        """The rest of that state: what the next row has as `adaptive_weight`."""
    @property
    def violations(self) -> dict[int, tuple[str, str]]:
        """What is wrong with rows whose status is INVALID_PARAMETERS: the field and what is allowed, by row."""
    def raise_for_status(self) -> Self:
        """Raises a RowError that names the first row without a token, if there is one; returns the results."""
    def __len__(self) -> int: ...

@final
class Distribution:
    """One of the distributions that `logprobs` asked for, of each row. An array is made when it is first looked at.

    Ranks are counted from 1, in the order of the distribution; 0 is a token that is not in it, with a logprob of -inf.
    Where a row has no such token, it is -1, its rank 0 and its logprob NaN.
    """

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """Whether each row has it, a `Status`; 255 where it was not asked for."""
    @property
    def entropy(self) -> npt.NDArray[np.float32]:
        """The entropy of each row, in nats; NaN where the status is not OK."""
    @property
    def logprobs(self) -> npt.NDArray[np.float32]:
        """The logprob of each row's token."""
    @property
    def ranks(self) -> npt.NDArray[np.uint32]:
        """The rank of each row's token."""
    @property
    def draw_logprobs(self) -> npt.NDArray[np.float32]:
        """The logprobs of every draw: `[rows, draws]`, as `Results.draws` has them."""
    @property
    def draw_ranks(self) -> npt.NDArray[np.uint32]:
        """The ranks of every draw: `[rows, draws]`."""
    @property
    def top_tokens(self) -> npt.NDArray[np.int64]:
        """The first tokens of each row, most likely first: `[rows, top]`."""
    @property
    def top_logprobs(self) -> npt.NDArray[np.float32]:
        """Their logprobs: `[rows, top]`."""
    @property
    def id_logprobs(self) -> npt.NDArray[np.float32]:
        """The logprobs of the tokens that were asked for by `ids`, in that order: `[rows, ids]`."""
    @property
    def id_ranks(self) -> npt.NDArray[np.uint32]:
        """The ranks of these: `[rows, ids]`."""

@final
class Verified:
    """What came of sequences with drafts, in their order. An array is made when it is first looked at."""

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """What became of each sequence, a `Status`: where it is not OK, the row behind the last token has none."""
    @property
    def accepted(self) -> npt.NDArray[np.uint32]:
        """How many drafts of each sequence were taken."""
    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """What the sequences go on with, `[sequences, most]`: the drafts that were taken, and behind them a token of the target
        where the status is OK; -1 behind those of a sequence.
        """
    @property
    def logprobs(self) -> npt.NDArray[np.float32]:
        """The natural logarithms of the tokens' probabilities among the kept tokens of their rows, NaN where there is no
        token; -inf for a draft that was taken and whose probability is too small for the arithmetic.
        """
    @property
    def path(self) -> npt.NDArray[np.int64]:
        """Of trees: the nodes of the drafts that were taken, in order, `[sequences, most]`; -1 behind those of a sequence."""
    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """The seed of each sequence."""
    @property
    def rows(self) -> Results | None:
        """The results of the tokens' rows, a row for each token of the first sequence, then of the next, where `logprobs` or
        `return_kept` asked for them, else None.
        """
    def tokens_of(self, sequence: int) -> npt.NDArray[np.uint32]:
        """The tokens that a sequence goes on with: `history.extend(verified.tokens_of(0))`."""
    def raise_for_status(self) -> Self:
        """Raises a RowError that names the first sequence whose status is not OK, if there is one; returns the answer."""
    def __len__(self) -> int: ...

@final
class BeamGroup:
    """How a group of beams goes on. Continuations are best first: by score, equal ones by beam, then by the order of their row."""

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """What became of each row, a `Status`. One that is not OK gives no continuations."""
    @property
    def running(self) -> Continuations:
        """The best continuations that are not finished: the beams of the next step."""
    @property
    def finished(self) -> Continuations:
        """Those of the best `beams` candidates that are finished."""
    @property
    def candidates(self) -> Continuations:
        """The best continuations of all rows, finished or not."""

@final
class Continuations:
    """Continuations of beams, best first, as columns of equal length."""

    @property
    def beams(self) -> npt.NDArray[np.uint32]:
        """Which beam each goes on from: its row's place in the group."""
    @property
    def tokens(self) -> npt.NDArray[np.uint32]:
        """The tokens that they go on with."""
    @property
    def scores(self) -> npt.NDArray[np.int64]:
        """Their scores, in units of 2^-32 nat."""
    def __len__(self) -> int: ...

@final
class BeamSearch:
    """Beam searches side by side, as Hugging Face's `generate(num_beams=...)` makes them, in whole numbers: a step asks for a
    row of logits behind each of `tokens`, and `step` takes them.

    `groups` is how many searches there are, `beams` how many texts each looks at side by side and finds (1 to 64), `eos_ids`
    what ends a text, `max_length` how many tokens it has at most (20). Finished texts are compared by `score / length **
    length_penalty`; `early_stopping` is True, False or "never", as there.
    """

    def __new__(
        cls,
        groups: int = 1,
        *,
        beams: int,
        eos_ids: _Ids | None = None,
        max_length: int | None = None,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] | None = None,
    ) -> Self: ...
    @property
    def open(self) -> list[int]:
        """The searches that are not at their end, by their numbers: the groups of the next step. None are left in the end."""
    @property
    def tokens(self) -> list[npt.NDArray[np.uint32]]:
        """The tokens behind which a row of logits is wanted, without the prompt: those of each beam of each open group, in
        order. In the first step a group has one beam, without tokens.
        """
    @property
    def scores(self) -> list[list[int]]:
        """The running scores of the beams, in units of 2^-32 nat: a list for each open group, as `beam_step` takes them."""
    @property
    def parents(self) -> npt.NDArray[np.int64]:
        """The row of the step before that each row goes on from, which is where its model's cache is; in the first step the
        number of its group.
        """
    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `beam_step` that are the search's own: `beams` and `eos_ids`."""
    def step(self, x: _Logits | _CudaArray, /, by: Sampler | Client | None = None, **controls: Unpack[SearchControls]) -> None:
        """Takes a row of logits for each of `tokens`, and goes on: a step of `by` (a `Sampler` or a `Client`; None is
        `logitd.beam_step`) with these controls, and `temperature` and `normaliser`.
        """
    def advance(self, groups: list[BeamGroup]) -> None:
        """Takes what a `beam_step` of the open groups has found: what `step` does by itself. An error changes nothing."""
    @property
    def found(self) -> list[list[BeamText]]:
        """The best finished texts of each search, best first: those of the end, or those so far where it is open."""
    @property
    def ends(self) -> list[Literal["early", "length", "no_candidate"] | None]:
        """Why each search has ended: "early", "length", or "no_candidate" where no beam could go on; None where it is open."""

@final
class BeamText:
    """A text that a search has found."""

    @property
    def tokens(self) -> npt.NDArray[np.uint32]:
        """Its tokens, the one that ended it included."""
    @property
    def score(self) -> int:
        """The natural logarithm of its probability, in units of 2^-32."""
    @property
    def normalised(self) -> float:
        """By what texts are compared: the score in nats, divided by the power of the length."""

@final
class History:
    """The tokens of a sequence, which grow from step to step: in each step `sample(x, history=history, ..)`, then
    `history.append(token)`. The same as `prompt` and `output`, which are read anew in each call.
    """

    def __new__(cls, prompt: _Ids | None = None, output: _Ids | None = None) -> Self: ...
    def append(self, token: int | np.integer[Any]) -> None:
        """Adds a token to the output."""
    def extend(self, tokens: _Ids) -> None:
        """Adds tokens to the output."""
    def truncate(self, output_length: int) -> None:
        """Forgets the tokens of the output but for the first so many: those of a draft that was not taken."""
    @property
    def prompt(self) -> npt.NDArray[np.uint32]:
        """The tokens of the prompt."""
    @property
    def output(self) -> npt.NDArray[np.uint32]:
        """The tokens of the output."""
    def __len__(self) -> int: ...

@final
class Sampler:
    """Threads and memory that rows are sampled with, kept from call to call.

    Calls of several threads take turns; what is to sample at the same time is several samplers, with a part of the
    threads each. `device` is cpu, cuda:0 and so on, or reference, the slow oracle. On a CUDA device `x` may lie in its memory:
    a tensor with DLPack or `__cuda_array_interface__`, which is read behind what its stream has, without a copy to the host.
    """

    def __new__(
        cls,
        threads: int | None = None,
        isa: Literal["portable", "avx2", "avx512"] | None = None,
        device: str = "cpu",
    ) -> Self: ...
    def sample(self, x: _Logits | _CudaArray, /, **controls: Unpack[Controls]) -> Results:
        """Draws tokens from rows of logits, as `logitd.sample` does."""
    def verify(self, x: _Logits | _CudaArray, drafts: _Drafts, /, **controls: Unpack[VerifyControls]) -> Verified:
        """Verifies drafts of sequences, as `logitd.verify` does."""
    def beam_step(self, x: _Logits | _CudaArray, scores: _Scores, /, **controls: Unpack[BeamControls]) -> list[BeamGroup]:
        """Makes a step of beam searches, as `logitd.beam_step` does."""
    @property
    def device(self) -> str:
        """What it computes on: cpu, reference, or a CUDA device: cuda:0."""
    @property
    def isa(self) -> str:
        """What the code was chosen for: portable, avx2 or avx512; of a CUDA device its chip and where its kernels are from."""
    @property
    def threads(self) -> int:
        """How many threads it computes with, the caller's among them."""

_Dtype: TypeAlias = Literal["f16", "bf16", "f32"]
_Done: TypeAlias = Callable[[Any, BaseException | None], object]

@type_check_only
class _ClientOptions(TypedDict, total=False):
    plane: Literal["auto", "inline", "chunked", "shared_memory", "direct"]
    timeout: float | None
    retries_max: int
    token: str | None
    tls_roots: bytes | None
    tls_identity: tuple[bytes, bytes] | None
    tls_domain: str | None

@type_check_only
class _Evaluating(TypedDict, total=False):
    """The options of `logitd.evaluate` that a server has too."""

    temperature: _Axis
    top_k: _WholeAxis
    top_p: _Axis
    min_p: _Axis
    profile: str | Sequence[str] | None
    top_n_sigma: _Axis
    top_h: _Axis
    top_a: _Axis
    epsilon_cutoff: _Axis
    eta_cutoff: _Axis
    typical_p: _Axis
    xtc_probability: _Axis
    xtc_threshold: _Axis
    dynatemp_range: _Axis
    dynatemp_exponent: _Axis
    groups: _Ids | None
    tail_share: float
    rows: bool
    vocab_size: int | None

@type_check_only
class _Info(TypedDict):
    version: str
    arithmetic_version: int
    devices: list[str]
    planes: list[str]
    shm_control: str

@final
class Client:
    """A connection to a server, whose calls and results are those of a sampler in process, to the bit.

    `target` is `http://HOST:PORT`, `https://HOST:PORT` (with `tls_roots`, PEM), `HOST:PORT` or `unix:PATH`. `plane` says
    how logits get there: inline, chunked (a large batch in pieces), shared_memory or direct (over a Unix socket of a
    server with --shm), or auto, which takes the fastest that there is. `timeout` is in seconds, for each attempt of a
    call; an overloaded server is asked again when it says, up to `retries_max` times (3).

    Exceptions are those of `logitd.errors`. A client is for one process: a fork needs its own.
    """

    def __new__(cls, target: str, **options: Unpack[_ClientOptions]) -> Self: ...
    def sample(self, x: _Logits, /, **controls: Unpack[Controls]) -> Results:
        """Draws tokens from rows of logits, as `logitd.sample` does, on the server."""
    def verify(self, x: _Logits, drafts: _Drafts, /, **controls: Unpack[VerifyControls]) -> Verified:
        """Verifies drafts of sequences, as `logitd.verify` does, on the server."""
    def beam_step(self, x: _Logits, scores: _Scores, /, **controls: Unpack[BeamControls]) -> list[BeamGroup]:
        """Makes a step of beam searches, as `logitd.beam_step` does, on the server."""
    def evaluate(self, logits: _Logits, references: _Ids, sets: _Sets = None, **options: Unpack[_Evaluating]) -> Evaluation:
        """Evaluates sets of sampling parameters over rows whose next token is known, as `logitd.evaluate` does, on the server."""
    def _evaluate(self, logits: _Logits, references: _Ids, options: Mapping[str, Any], /) -> dict[str, Any]:
        """What `evaluate` is made of: arrays by their names."""
    def staging(self, shape: tuple[int, int], dtype: _Dtype) -> Staging:
        """Memory to write logits to, `[rows, vocab_size]` of f16, bf16 or f32, until the end of a `with` block.

        Where the server shares memory it is the server's too, and sampling it sends no copy.
        """
    def info(self) -> _Info:
        """What the server says of itself: its version, devices (ids), planes, and the address of its control socket."""

@final
class AsyncConnection:
    """What `AsyncClient` is made of: calls that begin at once and in the end call `done(value, error)`, one of them None."""

    def __new__(cls, target: str, **options: Unpack[_ClientOptions]) -> Self: ...
    def sample(self, x: _Logits, controls: Mapping[str, Any] | None, done: _Done) -> Task:
        """Begins to sample. What `x` has is taken before this returns."""
    def verify(self, x: _Logits, drafts: _Drafts, controls: Mapping[str, Any] | None, done: _Done) -> Task:
        """Begins to verify. What `x` has is taken before this returns."""
    def beam_step(self, x: _Logits, scores: _Scores, controls: Mapping[str, Any] | None, done: _Done) -> Task:
        """Begins to make a step of beam searches. What `x` has is taken before this returns."""
    def evaluate(self, logits: _Logits, references: _Ids, options: Mapping[str, Any], done: _Done) -> Task:
        """Begins to evaluate. What `logits` has is taken before this returns."""
    def info(self, done: _Done) -> Task:
        """Begins to ask the server what it is."""
    def staging(self, shape: tuple[int, int], dtype: _Dtype) -> Staging:
        """Memory to write logits to. It waits for the server: not for an event loop's thread."""

@final
class Task:
    """A call that goes on."""

    def cancel(self) -> None:
        """Ends it, if it has not ended: its request is cancelled, and `done` is not called."""

@final
class Staging:
    """Memory to write logits to, `[rows, vocab_size]`, until the end of a `with` block.

    `client.sample` of it, or of an array of it, sends no copy where the server shares memory. `numpy.asarray(buf)` is an
    array of it (uint16 for bf16: `.view(ml_dtypes.bfloat16)`), `torch.from_dlpack(buf)` a tensor. Arrays that outlive the
    block keep the memory for themselves; the next block has other memory then.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and logits of each."""
    @property
    def dtype(self) -> str:
        """How logits are stored: f16, bf16 or f32."""
    @property
    def array(self) -> npt.NDArray[Any]:
        """A numpy array of it: float16, float32, or uint16 for bf16."""
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: types.TracebackType | None,
        /,
    ) -> None: ...

def sample(x: _Logits, /, **controls: Unpack[Controls]) -> Results:
    """Draws tokens from rows of logits.

    `x` has float16, bfloat16 or float32 logits: `[rows, vocab_size]`, or `[vocab_size]` for a single row, whose results
    are arrays of one. It is read where it lies, without a copy and without the GIL; nobody may write to it meanwhile.
    """

def verify(x: _Logits, drafts: _Drafts, /, **controls: Unpack[VerifyControls]) -> Verified:
    """Verifies drafts of sequences: speculative decoding.

    `x` has the rows of all sequences, one sequence after another: a row for each draft, and one more. `drafts` has the tokens
    of one sequence, or a list for each. `mode` is match, rejection or typical; `parents` makes trees of drafts.
    """

def beam_step(x: _Logits, scores: _Scores, /, **controls: Unpack[BeamControls]) -> list[BeamGroup]:
    """Makes a step of beam searches: which continuations of beams are the best.

    `x` has a row for each beam, one group after another; `scores` their running scores in units of 2^-32 nat, a list for a
    single group or one for each (`[0]` in the first step). Returns a `BeamGroup` for each group.
    """

def evaluate(logits: _Logits, references: _Ids, options: Mapping[str, Any], /) -> dict[str, Any]:
    """What `logitd.evaluate` is made of: arrays by their names."""

def fields() -> list[_Field]:
    """Every parameter of a row, in the API's order."""

ADJUSTMENTS: Sequence[str]
OPTIONS: Sequence[str]
STATUSES: Sequence[tuple[str, int]]
__version__: str
arithmetic_version: int
