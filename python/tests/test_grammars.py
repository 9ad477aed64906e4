"""Bitmasks of a grammar engine go in as they are: JSON out of noise."""

import json

import numpy as np
import pytest

llguidance = pytest.importorskip("llguidance", reason="llguidance is not installed")
import llguidance.numpy  # noqa: E402

import logitd  # noqa: E402

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3}},
    "required": ["name", "ages"],
    "additionalProperties": False,
}
ROWS = 4


def test_noise_is_json_under_the_masks_of_llguidance() -> None:
    # A token a byte, and some for ends.
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})
    matchers = [llguidance.LLMatcher(tokenizer, grammar) for _ in range(ROWS)]
    bitmask = llguidance.numpy.allocate_token_bitmask(ROWS, tokenizer.vocab_size)
    assert bitmask.dtype == np.int32
    noise = np.random.default_rng(1)
    texts = [bytearray() for _ in range(ROWS)]
    for position in range(200):
        for row, matcher in enumerate(matchers):
            if not matcher.is_stopped():
                llguidance.numpy.fill_next_token_bitmask(matcher, bitmask, row)
        x = noise.normal(0, 5, (ROWS, tokenizer.vocab_size)).astype(np.float16)
        tokens = logitd.sample(x, allowed_bitmask=bitmask, seed=range(ROWS), position=position).raise_for_status().tokens
        for row, (matcher, token) in enumerate(zip(matchers, tokens.tolist(), strict=True)):
            if not matcher.is_stopped():
                assert matcher.consume_token(token)
                texts[row] += bytes([token]) if token < 256 else b""
    print([text.decode() for text in texts])
    for matcher, text in zip(matchers, texts, strict=True):
        assert matcher.is_stopped()
        written = json.loads(text)
        assert written["name"] in ["Ada", "Bob"] and len(written["ages"]) <= 3
    assert len({bytes(text) for text in texts}) > 1
