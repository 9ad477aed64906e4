"""logitd in Hugging Face's transformers: its `generate`, with tokens that logitd draws.

    from logitd.transformers import custom_generate
    model.generate(**inputs, custom_generate=custom_generate(temperature=0.8, top_k=50, seed=[7, 8]))

or, where a loop of another's takes processors of logits, `LogitsProcessor(temperature=0.8, top_k=50, seed=[7, 8])` as
the last of them. The forward pass, the cache, stopping and streaming are those of transformers.

Each sequence has a seed, and the position is the number of its tokens since the prompt: the same logits, parameters and
seed are the same text. Logits themselves move a little where the batch changes; `draw_rule="race"` is for that.

This module imports neither transformers nor torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._steps import Samples, Steps

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._native import Controls, Results

__all__ = ["LogitsProcessor", "custom_generate"]

# That of torch, which is not imported here, nor needed by type checkers.
Tensor: TypeAlias = Any


class LogitsProcessor:
    """Leaves the token that logitd draws, with a score of 0, and sets all others to -inf.

    Whatever chooses afterwards, `do_sample` or not, takes that token. `controls` are the keywords of `logitd.sample`, one
    for all sequences or one a sequence; what the generation config says of sampling (temperature, top_k, ..) has no effect.
    One seed for all gives sequences of equal logits the same text: `num_return_sequences` wants a list of seeds. A seed that is
    left out is drawn from the operating system, and kept in `seeds`. `position` is that of the first token, 0 by default.

    The history (`prompt`, `output`) is that of `input_ids`, without the padding that `attention_mask` tells of. `each_step`,
    called with `input_ids`, returns further controls for that step, such as the `allowed_bitmask` of a grammar; neither may
    have a history, which is told here. `sampler` is a `Sampler` or a `Client`; by default it is `logitd.sample`.

    It is for one call of `generate`, and not for beams. `results` has what was drawn, a `Results` a step.
    """

    def __init__(
        self,
        *,
        sampler: Samples | None = None,
        each_step: Callable[[Tensor], Mapping[str, Any]] | None = None,
        attention_mask: Tensor | None = None,
        **controls: Unpack[Controls],
    ):
        self.results: list[Results] = []
        self._steps = Steps(sampler, controls)
        self._each_step = each_step
        self._attention_mask = attention_mask
        self._input_ids: Tensor | None = None
        self._prompt_length = 0

    @property
    def seeds(self) -> npt.NDArray[np.uint64]:
        """The seed of each sequence, once the first token is drawn."""
        return self._steps.seeds

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._follow(input_ids)
        further = {} if self._each_step is None else self._each_step(input_ids)
        results = self._steps.draw(scores.detach().cpu(), lambda: self._history(input_ids), further)
        self.results.append(results)
        tokens = input_ids.new_tensor(results.tokens)
        return scores.new_full(scores.shape, -np.inf).scatter_(1, tokens[:, None], 0.0)

    def _follow(self, input_ids: Tensor) -> None:
        before = self._input_ids
        if before is None:
            self._prompt_length = input_ids.shape[1]
        elif input_ids[:, :-1].shape != before.shape or not input_ids[:, :-1].equal(before):
            raise ValueError(
                "these sequences are not those of the step before with a token more: "
                "a LogitsProcessor is for one call of generate, without beams and drafts"
            )
        self._input_ids = input_ids

    def _history(self, input_ids: Tensor) -> dict[str, Any]:
        ids = input_ids.cpu().numpy()
        prompts, outputs = ids[:, : self._prompt_length], ids[:, self._prompt_length :]
        if self._attention_mask is None:
            return {"prompt": list(prompts), "output": list(outputs)}
        masks = self._attention_mask.bool().cpu().numpy()
        return {"prompt": [ids[mask] for ids, mask in zip(prompts, masks)], "output": list(outputs)}


def custom_generate(
    *,
    sampler: Samples | None = None,
    each_step: Callable[[Tensor], Mapping[str, Any]] | None = None,
    **controls: Unpack[Controls],
) -> Callable[..., Any]:
    """What `model.generate(custom_generate=..)` takes: the loop of transformers, with tokens that logitd draws.

    Keywords are those of `LogitsProcessor`, and the attention mask is that of the call. Other processors of logits go first;
    those by which transformers samples itself (temperature, top_k, ..) are left out. With `output_scores` the scores are what
    was given to logitd, and with `return_dict_in_generate` the output has `logprobs`, `[sequences, steps]`, and `seeds` too,
    as numpy arrays, and `results`, a `Results` a step; behind the end of a sequence they mean nothing. transformers gives no
    streamer to a `custom_generate`; to stream, use `LogitsProcessor`.
    """

    def generate(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Any:
        if generation_config.num_beams != 1:
            raise ValueError(f"num_beams is {generation_config.num_beams}; allowed: 1")
        # That of an encoder is not about these tokens.
        mask = None if model.config.is_encoder_decoder else model_kwargs.get("attention_mask")
        chosen = LogitsProcessor(sampler=sampler, each_step=each_step, attention_mask=mask, **controls)
        scores: list[Tensor] = []

        def choose(input_ids: Tensor, given: Tensor) -> Tensor:
            if generation_config.output_scores:
                scores.append(given)
            return chosen(input_ids, given)

        config = copy.copy(generation_config)
        config.do_sample = False
        others = [processor for processor in logits_processor if not type(processor).__name__.endswith("LogitsWarper")]
        output = model._sample(
            input_ids,
            logits_processor=type(logits_processor)([*others, choose]),
            stopping_criteria=stopping_criteria,
            generation_config=config,
            **model_kwargs,
        )
        if not generation_config.return_dict_in_generate:
            return output
        # A step may have been taken back, where transformers notices the end later.
        steps = output.sequences.shape[1] - input_ids.shape[1]
        if generation_config.output_scores:
            output["scores"] = tuple(scores[:steps])
        output["results"] = chosen.results[:steps]
        output["logprobs"] = np.stack([results.logprobs for results in output["results"]], axis=1)
        output["seeds"] = chosen.seeds
        return output

    return generate
