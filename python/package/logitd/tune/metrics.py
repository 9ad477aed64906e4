"""What generated texts are like: diversity, repetition, and how many attempts solve a task.

A text is its words, split at white space, or the tokens that it was generated as. Means are over texts, as the papers
that these are from have them; who wants one over a corpus joins its texts.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "METRICS",
    "compression_ratio",
    "distinct",
    "pass_at_k",
    "read",
    "self_bleu",
    "seq_rep",
]

Text: TypeAlias = str | Sequence[Hashable]


def _tokens(text: Text) -> Sequence[Hashable]:
    return text.split() if isinstance(text, str) else text


def _ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _distinct_share(text: Text, n: int) -> float | None:
    """Different n-grams among all of a text; None where it has none."""
    ngrams = _ngrams(_tokens(text), n)
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _mean(name: str, values: Iterable[float | None]) -> float:
    found = [value for value in values if value is not None]
    if not found:
        raise ValueError(f"{name} is of no text: none is long enough")
    return sum(found) / len(found)


def distinct(texts: Sequence[Text], n: int) -> float:
    """distinct-n (Li et al. 2016): the share of n-grams of a text that are different ones. Texts shorter than n are left out."""
    return _mean(f"distinct-{n}", (_distinct_share(text, n) for text in texts))


def seq_rep(texts: Sequence[Text], n: int = 4) -> float:
    """seq-rep-n (Welleck et al. 2020): the share of n-grams of a text that repeat one of it. Texts shorter than n are left out."""
    return 1.0 - _mean(f"seq-rep-{n}", (_distinct_share(text, n) for text in texts))


def compression_ratio(texts: Sequence[Text]) -> float:
    """How many times smaller zlib makes the texts, joined: what they repeat of themselves and of each other.

    Tokens are written as decimal numbers. Only to be compared among texts of about the same length.
    """
    joined = "\n".join(text if isinstance(text, str) else " ".join(map(str, text)) for text in texts).encode()
    if not joined:
        raise ValueError("compression is of no text: all are empty")
    return len(joined) / len(zlib.compress(joined, 9))


def self_bleu(texts: Sequence[Text]) -> float:
    """self-BLEU (Zhu et al. 2018), 0 to 100: the mean BLEU of each text against the others, by sacrebleu. High is alike."""
    try:
        import sacrebleu
    except ImportError:
        raise ModuleNotFoundError("self-bleu needs sacrebleu: pip install sacrebleu") from None
    if len(texts) < 2:
        raise ValueError(f"self-bleu is of {len(texts)} texts; allowed: 2 or more")
    # Words stay words: split here, so that tokens and texts are treated alike.
    split = [" ".join(map(str, _tokens(text))) for text in texts]
    bleu = sacrebleu.BLEU(tokenize="none", effective_order=True)
    return _mean("self-bleu", (float(bleu.sentence_score(text, split[:i] + split[i + 1 :]).score) for i, text in enumerate(split)))


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """pass@k of one task (Chen et al. 2021): the chance that of k of these samples at least one has passed, unbiased."""
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(f"{passed} of {samples} samples passed, k is {k}; allowed: passed 0 to samples, k 1 to samples")
    missed = 1.0
    # C(samples - passed, k) / C(samples, k), factor by factor: neither fits a double.
    for i in range(k):
        missed *= max(samples - passed - i, 0) / (samples - i)
    return 1.0 - missed


def _mean_pass_at(k: int) -> Callable[[Any], float]:
    return lambda tasks: _mean(f"pass@{k}", (pass_at_k(samples, passed, k) for samples, passed in tasks))


# What `--metrics` knows: the name, what of the command's JSON it is of, and the function.
METRICS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "distinct-1": ("generated", lambda texts: distinct(texts, 1)),
    "distinct-2": ("generated", lambda texts: distinct(texts, 2)),
    "seq-rep-4": ("generated", seq_rep),
    "compression": ("generated", compression_ratio),
    "self-bleu": ("generated", self_bleu),
}


def named(name: str) -> tuple[str, Callable[[Any], float]]:
    """A metric by its name: those of METRICS, and pass@K."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith("pass@") and name[5:].isdecimal() and int(name[5:]) > 0:
        return "passed", _mean_pass_at(int(name[5:]))
    raise ValueError(f"{name!r} is no metric; allowed: {', '.join(METRICS)}, pass@K")


def read(generated: Any) -> list[Text]:
    """Generated texts: a list of texts or of lists of tokens, or a file of such.

    A file has a JSON value a line: a text, a list of tokens, or an object with one of them as `text` or `tokens`.
    """
    if isinstance(generated, str):
        lines = Path(generated).read_text(encoding="utf-8").splitlines()
        generated = [json.loads(line) for line in lines if line.strip()]
    if not isinstance(generated, list):
        raise ValueError(f"generated is a {type(generated).__name__}; allowed: a list of texts or of lists of tokens, or the path of a file of such")
    return [_text(i, item) for i, item in enumerate(generated)]


def _text(i: int, item: Any) -> Text:
    if isinstance(item, dict):
        item = item.get("tokens", item.get("text"))
    if isinstance(item, str) or (isinstance(item, list) and all(isinstance(token, (int, str)) for token in item)):
        return item
    raise ValueError(f"generated[{i}] is neither a text nor a list of tokens, and has none as `text` or `tokens`")
