"""The metrics of generated texts, against values made by hand."""

import itertools
import json
import math
import pathlib

import pytest

from logitd.tune import metrics


def test_distinct_is_the_share_of_different_ngrams() -> None:
    assert metrics.distinct(["a b a b"], 1) == 2 / 4
    assert metrics.distinct(["a b a b"], 2) == 2 / 3
    # A mean over texts; a text without a bigram has no share.
    assert metrics.distinct(["a b a b", [7, 7, 7], "a"], 2) == (2 / 3 + 1 / 2) / 2
    # A token is a token, whatever it is written like.
    assert metrics.distinct([[1, 11], [11, 1, 11]], 1) == (1 + 2 / 3) / 2
    with pytest.raises(ValueError, match="distinct-2 is of no text: none is long enough"):
        metrics.distinct(["a", ""], 2)


def test_seq_rep_is_the_share_of_repeated_ngrams() -> None:
    assert metrics.seq_rep(["a b c d e"]) == 0.0
    # abcd bcda cdab dabc abcd: one of five is there already.
    assert metrics.seq_rep([list("abcdabcd")]) == pytest.approx(1 / 5)
    assert metrics.seq_rep([[5] * 10]) == pytest.approx(6 / 7)
    assert metrics.seq_rep([[5, 5, 5]], n=1) == pytest.approx(2 / 3)


def test_compression_tells_repetition() -> None:
    varied = " ".join(str(i * 7919 % 10007) for i in range(400))
    assert 1.5 < metrics.compression_ratio([varied]) < 3
    assert metrics.compression_ratio(["the same again. " * 200]) > 40
    assert metrics.compression_ratio([varied, varied]) > 1.5 * metrics.compression_ratio([varied])
    assert metrics.compression_ratio([[1, 2, 3]]) == metrics.compression_ratio(["1 2 3"])


def test_self_bleu_tells_alike_texts() -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    assert metrics.self_bleu(["a b c d e", "a b c d e"]) == pytest.approx(100.0)
    assert metrics.self_bleu(["a b c d e", "f g h i j"]) < 10
    with pytest.raises(ValueError, match="self-bleu is of 1 texts"):
        metrics.self_bleu(["a"])


def test_pass_at_k_is_that_of_all_choices() -> None:
    for samples, passed, k in itertools.product(range(1, 8), range(8), range(1, 8)):
        if passed <= samples and k <= samples:
            choices = list(itertools.combinations(range(samples), k))
            solved = sum(any(i < passed for i in choice) for choice in choices)
            assert metrics.pass_at_k(samples, passed, k) == pytest.approx(solved / len(choices))
    # 1 - C(9900, 100) / C(10000, 100), whose parts no double can hold.
    logs = [math.lgamma(a + 1) - math.lgamma(a - 99) for a in (9900, 10000)]
    assert metrics.pass_at_k(10000, 100, 100) == pytest.approx(1 - math.exp(logs[0] - logs[1]))
    with pytest.raises(ValueError, match="3 of 2 samples passed"):
        metrics.pass_at_k(2, 3, 1)


def test_metrics_have_names() -> None:
    source, pass_at_2 = metrics.named("pass@2")
    assert (source, pass_at_2([[4, 2], [4, 0]])) == ("passed", pytest.approx((5 / 6) / 2))
    assert metrics.named("distinct-2")[0] == "generated"
    for name in ("distinct-3", "pass@0", "pass@", "bleu"):
        with pytest.raises(ValueError, match="no metric; allowed: distinct-1, "):
            metrics.named(name)


def test_texts_are_read_from_lists_and_files(tmp_path: pathlib.Path) -> None:
    items = ["a b", [1, 2], {"text": "c"}, {"tokens": [3], "text": "x"}]
    file = tmp_path / "generated.jsonl"
    file.write_text("\n".join(map(json.dumps, items)) + "\n\n")
    assert metrics.read(str(file)) == metrics.read(items) == ["a b", [1, 2], "c", [3]]
    for wrong in (5, [5], [{"words": []}], [[None]]):
        with pytest.raises(ValueError, match="generated"):
            metrics.read(wrong)
