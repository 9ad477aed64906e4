"""logitd in llama.cpp, by llama-cpp-python: its logits are sampled where they lie.

    from logitd.llama_cpp import generate
    llama = llama_cpp.Llama("model.gguf", n_ctx=2048)
    for drawn in generate(llama, llama.tokenize(b"Once upon a time"), temperature=0.8, top_k=50, seed=7):
        print(llama.detokenize([drawn.token]).decode(errors="ignore"), end="")

The same prompt, parameters and seed are the same text. The prompt is read from its beginning each time: from a cache its
last logits may come out in other bits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._native import History
from ._steps import Samples, Steps

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._native import Controls, Results

__all__ = ["Drawn", "generate", "logits"]

# That of llama_cpp.
Llama: TypeAlias = Any


@dataclass(frozen=True)
class Drawn:
    """A token, the logarithm of its probability among those that were kept, and the seed of its sequence.

    `results` has all that was asked for, in a single row: `logprobs="raw"`, `return_kept`, several `draws`, of which the first
    is the token.
    """

    token: int
    logprob: float
    seed: int
    results: Results = field(compare=False, repr=False)


def logits(llama: Llama) -> npt.NDArray[np.float32]:
    """The logits of the last position that `llama.eval` has read: its own memory, which the next `eval` writes to."""
    llama_cpp = _llama_cpp()
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), (llama.n_vocab(),))


def generate(
    llama: Llama,
    tokens: Sequence[int],
    *,
    max_tokens: int | None = None,
    sampler: Samples | None = None,
    each_step: Callable[[Sequence[int]], Mapping[str, Any]] | None = None,
    **controls: Unpack[Controls],
) -> Iterator[Drawn]:
    """Reads the tokens of a prompt and yields what is drawn after it, token by token.

    It ends where the model ends the text (ban that token to go on), after `max_tokens`, or where the context is full.
    `controls` are the keywords of `logitd.sample`; the position is the number of tokens since the prompt, and a seed that is
    left out is drawn from the operating system once. `each_step`, called with the tokens since the prompt, returns further
    controls for that step, such as the `allowed_bitmask` of a grammar; neither may have a history, which is told here.
    `sampler` is a `Sampler` or a `Client`; by default it is `logitd.sample`.
    """
    if not 1 <= len(tokens) <= llama.n_ctx():
        raise ValueError(
            f"tokens has {len(tokens)} tokens; allowed: 1 to {llama.n_ctx()}, the context of the model: a prompt begins with a "
            "token at least (llama.token_bos()), and Llama(n_ctx=..) makes room for longer ones"
        )
    if max_tokens is not None and max_tokens < 0:
        raise ValueError(f"max_tokens is {max_tokens}; allowed: 0 or more, or None for as many as there is room for")
    room = llama.n_ctx() - len(tokens) + 1
    count = room if max_tokens is None else min(room, max_tokens)
    return _drawn(llama, tokens, count, Steps(sampler, controls), each_step)


def _drawn(
    llama: Llama,
    tokens: Sequence[int],
    count: int,
    steps: Steps,
    each_step: Callable[[Sequence[int]], Mapping[str, Any]] | None,
) -> Iterator[Drawn]:
    llama_cpp = _llama_cpp()
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    history, output = History(tokens), list[int]()
    unread = tokens
    llama.reset()
    for _ in range(count):
        llama.eval(unread)
        further = {} if each_step is None else each_step(output)
        results = steps.draw(logits(llama), lambda: {"history": history}, further)
        token = int(results.tokens[0])
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            return
        yield Drawn(token, float(results.logprobs[0]), int(results.seeds[0]), results)
        history.append(token)
        output.append(token)
        unread = [token]


def _llama_cpp() -> Any:
    """Where it is used first: to import this module, and to check types, nothing else need be installed."""
    return importlib.import_module("llama_cpp")
