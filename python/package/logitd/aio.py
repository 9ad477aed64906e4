"""The client for asyncio: the same calls, beside whatever else the event loop does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from ._evaluate import Evaluation, through_async
from ._native import AsyncConnection, BeamGroup, Results, Staging, Task, Verified

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._evaluate import _Sets
    from ._native import BeamControls, Controls, VerifyControls, _ClientOptions, _Drafts, _Evaluating, _Ids, _Info, _Logits, _Scores

__all__ = ["AsyncClient"]


class AsyncClient:
    """A connection to a server, as `Client` is one, whose calls are coroutines.

    The first call connects. Any number of calls can go on at once. A call that is cancelled (`task.cancel()`,
    `asyncio.timeout`) cancels its request at the server; `timeout` is a deadline for each attempt, in seconds. What a call
    samples is taken from `x` when it begins to run: `x` may be written to from the first `await` on, unless it is memory of
    `staging`.
    """

    def __init__(self, target: str, **options: Unpack[_ClientOptions]) -> None:
        self._connection = AsyncConnection(target, **options)
        self._target = target

    async def sample(self, x: _Logits, /, **controls: Unpack[Controls]) -> Results:
        """Draws tokens from rows of logits, as `logitd.sample` does, on the server."""
        results: Results = await _call(lambda done: self._connection.sample(x, dict(controls), done))
        return results

    async def verify(self, x: _Logits, drafts: _Drafts, /, **controls: Unpack[VerifyControls]) -> Verified:
        """Verifies drafts of sequences, as `logitd.verify` does, on the server."""
        verified: Verified = await _call(lambda done: self._connection.verify(x, drafts, dict(controls), done))
        return verified

    async def beam_step(self, x: _Logits, scores: _Scores, /, **controls: Unpack[BeamControls]) -> list[BeamGroup]:
        """Makes a step of beam searches, as `logitd.beam_step` does, on the server."""
        groups: list[BeamGroup] = await _call(lambda done: self._connection.beam_step(x, scores, dict(controls), done))
        return groups

    async def evaluate(self, logits: _Logits, references: _Ids, sets: _Sets = None, **options: Unpack[_Evaluating]) -> Evaluation:
        """Evaluates sets of sampling parameters over rows whose next token is known, as `logitd.evaluate` does, on the server."""

        def ask(logits: _Logits, references: _Ids, options: Mapping[str, Any]) -> Awaitable[dict[str, Any]]:
            return _call(lambda done: self._connection.evaluate(logits, references, options, done))

        return await through_async(ask, logits, references, sets, **options)

    async def info(self) -> _Info:
        """What the server says of itself: its version, devices (ids), planes, and the address of its control socket."""
        info: _Info = await _call(self._connection.info)
        return info

    @asynccontextmanager
    async def staging(self, shape: tuple[int, int], dtype: Literal["f16", "bf16", "f32"]) -> AsyncIterator[Staging]:
        """Memory to write logits to: `async with client.staging((rows, vocab_size), "bf16") as buf`, as of `Client`."""
        with await asyncio.to_thread(self._connection.staging, shape, dtype) as staging:
            yield staging

    def __repr__(self) -> str:
        return f"AsyncClient({self._target!r})"


async def _call(begin: Callable[[Callable[[Any, BaseException | None], object]], Task]) -> Any:
    """Waits for a call. Its answer comes in another thread, and is handed to the event loop."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    task = begin(lambda value, error: loop.call_soon_threadsafe(settle, value, error))
    try:
        return await answer
    finally:
        task.cancel()
