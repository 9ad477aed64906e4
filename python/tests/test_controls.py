"""What can be asked of rows, by keywords."""

import ast
import math
import pathlib
import re
from decimal import Decimal
from typing import Any

import known
import numpy as np
import pytest

import logitd
from logitd import _native
from logitd._steps import STATES

V = 70
X = np.random.default_rng(3).normal(0, 2, (4, V)).astype(np.float32)


def tokens(**controls: Any) -> list[int]:
    return logitd.sample(X, **({"seed": 7} | controls)).tokens.tolist()


def draws(**controls: Any) -> np.ndarray:
    return logitd.sample(X, **({"seed": 7, "draws": 64} | controls)).draws


@pytest.mark.parametrize("field", logitd.fields(), ids=lambda field: field["name"])
def test_every_parameter_is_a_keyword(field: dict[str, Any]) -> None:
    name, default = field["name"], field["default"]
    others = {"seed": 7, "draws": 8}
    others.pop(name, None)
    without = logitd.sample(X, **others)
    if name == "seed":
        given = logitd.sample(X, seed=without.seeds, **others)
    else:
        given = logitd.sample(X, **others, **{name: default})
        assert logitd.sample(X, **others, **{name: [default] * 4}).draws.tolist() == given.draws.tolist()
        assert logitd.sample(X, **others, **{name: None}).draws.tolist() == given.draws.tolist()
    assert given.draws.tolist() == without.draws.tolist()
    with pytest.raises(TypeError, match=f"{name}.*; allowed: "):
        logitd.sample(X, **others, **{name: object()})
    wrong = math.inf if field["allowed"] == "finite numbers" else -1_000_000
    with pytest.raises(ValueError, match=re.escape(f"{name} is {wrong}; allowed: {field['allowed']}")):
        logitd.sample(X, **others, **{name: wrong})
    # Results have a state that there is not as NaN, and it can be given back.
    if name in STATES:
        assert logitd.sample(X, **others, **{name: [None, None, math.nan, None]}).draws.tolist() == without.draws.tolist()
    else:
        with pytest.raises(ValueError, match=f"^row 2: {name} is nan; allowed|^row 2: {name} is NaN; allowed"):
            logitd.sample(X, **others, **{name: [None, None, math.nan, None]})
    if not isinstance(default, bool):
        with pytest.raises(ValueError, match=f"{name} is True; allowed"):
            logitd.sample(X, **others, **{name: True})
    with pytest.raises(ValueError, match=f"{name} has 3 values for 4 rows; allowed: one for all of them, or one a row"):
        logitd.sample(X, **others, **{name: [default] * 3})


def test_a_number_is_one_in_every_type() -> None:
    expected = tokens(temperature=0.5, top_k=3)
    for number in [np.float64(0.5), np.float32(0.5), np.float16(0.5), np.array(0.5), Decimal("0.5")]:
        assert tokens(temperature=number, top_k=3) == expected
        assert tokens(temperature=[number] * 4, top_k=3) == expected
    for number in [3.0, np.int64(3), np.uint8(3), np.float32(3), np.array(3)]:
        assert tokens(temperature=0.5, top_k=number) == expected
    for dtype in [np.int8, np.uint16, np.int64, np.float32]:
        assert tokens(temperature=np.full(4, 0.5, np.float16), top_k=np.full(4, 3, dtype)) == expected
    assert tokens(temperature=(0.5,) * 4, top_k=range(3, 4).__iter__().__next__()) == expected


def test_one_a_row_is_what_each_row_has_alone() -> None:
    controls = {"temperature": [0.0, 0.5, 1.0, 2.0], "top_k": [0, 5, -1, None], "top_p": [1.0, 0.9, None, 0.5], "seed": [1, 2, 3, 2**64 - 1]}
    together = logitd.sample(X, **controls)
    for row in range(4):
        alone = logitd.sample(X[row], **{name: values[row] for name, values in controls.items()})
        assert alone.tokens[0] == together.tokens[row]
        assert alone.kept_mass[0] == together.kept_mass[row]
    assert together.seeds.tolist() == controls["seed"]


def test_top_k_is_off_in_three_ways() -> None:
    off = logitd.sample(X, seed=7)
    for top_k in [None, 0, -1]:
        results = logitd.sample(X, seed=7, top_k=top_k)
        assert results.kept.tolist() == off.kept.tolist() == [V] * 4
    with pytest.raises(ValueError, match="top_k is -2; allowed: whole numbers, 0"):
        logitd.sample(X, top_k=-2)


def test_numbers_are_compared_with_their_range_before_they_are_rounded() -> None:
    for controls, said in [
        ({"temperature": 1e-46}, "temperature is 1e-46; allowed: 0 .greedy., or 1e-30 to 10000"),
        ({"top_p": 1.0000000001}, "top_p is 1.0000000001; allowed"),
        ({"top_k": 5.5}, "top_k is 5.5; allowed"),
        ({"seed": 2**64}, "seed is 18446744073709551616; allowed"),
        ({"draws": 1025}, "draws is 1025; allowed: whole numbers, 1 to 1024"),
        ({"draw_rule": "gumbel"}, "draw_rule is gumbel; allowed: cumulative, race"),
    ]:
        with pytest.raises(ValueError, match=said):
            logitd.sample(X, **controls)
    with pytest.raises(TypeError, match="temperature is a <class 'str'>"):
        logitd.sample(X, temperature="0.7")


def test_an_unknown_control_is_named_with_the_nearest_one() -> None:
    with pytest.raises(TypeError, match=r"no control tempreature \(did you mean temperature\?\); there are: temperature, top_k"):
        logitd.sample(X, tempreature=0.7)
    with pytest.raises(TypeError, match="no control banned"):
        logitd.sample(X, banned=None)
    with pytest.raises(TypeError, match="no control dry_multiply"):
        logitd.sample(X, dry={"multiply": 0.7})


def test_seeds_that_are_left_out_come_from_the_system_and_replay() -> None:
    first, second = logitd.sample(X, draws=16), logitd.sample(X, draws=16)
    assert len({*first.seeds.tolist(), *second.seeds.tolist()}) == 8
    assert first.seeds.max() < 2**53
    assert logitd.sample(X, draws=16, seed=first.seeds).draws.tolist() == first.draws.tolist()
    assert logitd.sample(X, seed=[5, None, None, 5]).seeds[[0, 3]].tolist() == [5, 5]


def test_masks_in_every_form() -> None:
    allowed = np.zeros((4, V), bool)
    allowed[:, [3, 33, 69]] = True
    allowed[2] = False
    allowed[2, 40] = True
    words = np.packbits(np.pad(allowed, ((0, 0), (0, 96 - V))), axis=1, bitorder="little").view(np.uint32)
    each = draws(allowed_bitmask=words)
    assert set(each[:2].flatten()) <= {3, 33, 69} and set(each[2]) == {40}
    assert draws(allowed_bitmask=words.view(np.int32)).tolist() == each.tolist()
    assert draws(allowed_bitmask=[row.tobytes() for row in words]).tolist() == each.tolist()
    assert draws(allowed_bitmask=[row.tolist() for row in words]).tolist() == each.tolist()
    wide = np.zeros((4, 6), np.int32)
    wide[:, ::2] = words.view(np.int32)
    assert draws(allowed_bitmask=wide[:, ::2]).tolist() == each.tolist()
    assert draws(allowed_bitmask=list(words)).tolist() == each.tolist()
    one = draws(allowed_bitmask=words[0])
    assert one[:2].tolist() == each[:2].tolist() and set(one[2]) <= {3, 33, 69}
    assert draws(allowed_bitmask=words[0].tobytes()).tolist() == one.tolist()
    mixed = draws(allowed_bitmask=[None, words[0], None, words[0]])
    assert mixed[0].tolist() == draws()[0].tolist() and mixed[1].tolist() == one[1].tolist()
    for mask, error, said in [
        (words.astype(np.int64), TypeError, "allowed_bitmask is an array of int64; allowed: int32 or uint32"),
        (allowed, TypeError, "no type of numbers"),
        (b"12345", ValueError, "allowed_bitmask has 5 bytes; allowed: whole words of 4"),
        (words[:3], ValueError, "allowed_bitmask has 3 values for 4 rows"),
    ]:
        with pytest.raises(error, match=said):
            draws(allowed_bitmask=mask)


def test_lists_of_tokens_are_for_all_rows_or_one_a_row() -> None:
    assert set(draws(allowed_ids=[1, 2]).flatten()) <= {1, 2}
    assert draws(allowed_ids=np.array([1, 2])).tolist() == draws(allowed_ids=(1, 2)).tolist()
    assert draws(allowed_ids=range(1, 3)).tolist() == draws(allowed_ids=[1, 2]).tolist()
    for ids in [[[1], [2], None, [3, 4]], [np.array([1]), (2,), None, np.array([3, 4], np.uint8)]]:
        each = draws(allowed_ids=ids)
        assert set(each[0]) == {1} and set(each[1]) == {2} and set(each[3]) == {3, 4}
        assert each[2].tolist() == draws()[2].tolist()
    assert set(draws(allowed_ids=np.array([[1], [2], [3], [4]]))[3]) == {4}
    most = int(np.bincount(draws().flatten()).argmax())
    assert most not in draws(banned_ids=[most])
    assert draws(banned_ids=[]).tolist() == draws().tolist()
    assert draws(banned_ids=[None] * 4).tolist() == draws().tolist()
    assert most not in draws(bad_words=[[most]])
    assert most not in draws(bad_words=[[5, most]], prompt=[1, 5])
    each = draws(bad_words=[[[most]], None, None, []])
    assert most not in each[0] and each[1:].tolist() == draws()[1:].tolist()
    assert most not in draws(min_tokens=3, stop_ids=[most], output=[1, 2])
    assert draws(min_tokens=3, stop_ids=[most], output_length=3).tolist() == draws().tolist()
    assert draws(min_tokens=3, stop_ids=[most], output_length=[3, 3, 3, 2])[:3].tolist() == draws()[:3].tolist()


def test_pairs_are_a_dict_or_a_list() -> None:
    up = draws(logit_bias={5: 100})
    assert set(up.flatten()) == {5}
    assert draws(logit_bias=[(5, 100.0)]).tolist() == draws(logit_bias=[[5, 100]]).tolist() == up.tolist()
    assert 5 not in draws(logit_bias={5: -math.inf})
    each = draws(logit_bias=[{5: 100}, None, [(6, 100)], {}])
    assert set(each[0]) == {5} and set(each[2]) == {6}
    assert each[1].tolist() == draws()[1].tolist() and each[3].tolist() == draws()[3].tolist()
    most = int(np.bincount(draws().flatten()).argmax())
    assert most not in draws(frequency_penalty=100, counts={most: 3})
    assert most not in draws(frequency_penalty=100, counts=[[(most, 3)]] * 4)
    assert draws(frequency_penalty=100, counts={most: 3}).tolist() == draws(frequency_penalty=100, output=[most] * 3).tolist()


def test_a_history_grows_and_is_what_prompt_and_output_are() -> None:
    rules: dict[str, Any] = {"frequency_penalty": 1.5, "repetition_penalty": 1.3, "no_repeat_ngram": 2}
    history, prompt, output = logitd.History([1, 2, 3]), [1, 2, 3], list[int]()
    for step in range(12):
        expected = logitd.sample(X[0], **rules, prompt=prompt, output=output, seed=7, position=step)
        found = logitd.sample(X[0], **rules, history=history, seed=7, position=step)
        assert (found.tokens[0], found.kept_mass[0]) == (expected.tokens[0], expected.kept_mass[0])
        history.append(found.tokens[0])
        output.append(int(found.tokens[0]))
    assert (history.prompt.tolist(), history.output.tolist(), len(history)) == (prompt, output, 15)
    assert repr(history) == "History(prompt=3, output=12)"
    history.truncate(4)
    history.extend(np.array([7, 8]))
    assert history.output.tolist() == [*output[:4], 7, 8]
    given = logitd.History(np.array([5]), [6, 7])
    each = draws(**rules, history=[history, None, given, history])
    assert each.tolist() == draws(**rules, prompt=[prompt, None, [5], prompt], output=[[*output[:4], 7, 8], None, [6, 7], [*output[:4], 7, 8]]).tolist()
    for misuse, error, said in [
        (lambda: history.truncate(7), ValueError, "output_length is 7; allowed: 0 to 6"), (lambda: history.append(-1), ValueError, "token is -1; allowed: whole numbers"),
        (lambda: draws(history=history, prompt=[1]), ValueError, "history stands beside prompt and output"), (lambda: draws(history=[1, 2, 3, 4]), TypeError, "history is a <class 'int'>; allowed: a logitd.History"),
    ]:
        with pytest.raises(error, match=said):
            misuse()


def test_dry_is_a_group_or_single_keywords() -> None:
    history = {"prompt": [1, 2, 3, 4, 5, 1, 2, 3]}
    single = draws(dry_multiplier=90, dry_base=2, dry_breakers=[[9]], **history)
    assert draws(dry={"multiplier": 90, "base": 2, "breakers": [[9]]}, **history).tolist() == single.tolist()
    assert 4 not in single
    assert draws(dry={"multiplier": 90, "breakers": [[1, 2]]}, **history).tolist() == draws().tolist()


@pytest.mark.parametrize(("controls", "error", "said"), [
    ({"banned_ids": [V]}, ValueError, r"^banned_ids\[0\] is token 70; allowed: below vocab_size, 70$"),
    ({"banned_ids": [1, -1]}, ValueError, r"^banned_ids\[1\] is -1; allowed: whole numbers, 0 to 4294967295$"),
    ({"banned_ids": np.array([1, -1])}, ValueError, r"^banned_ids\[1\] is -1; allowed"),
    ({"banned_ids": [1.5]}, ValueError, r"^banned_ids\[0\] is 1.5; allowed"),
    ({"banned_ids": np.array([1.5])}, TypeError, "banned_ids is an array of float64; allowed: whole numbers"),
    ({"banned_ids": 5}, TypeError, "banned_ids is 5; allowed: a list"),
    ({"banned_ids": [None, [V], None, None]}, ValueError, r"^row 1: banned_ids\[0\] is token 70"),
    ({"banned_ids": [[1], [2]]}, ValueError, "banned_ids has 2 values for 4 rows"),
    ({"bad_words": [1, 2]}, TypeError, r"bad_words\[0\] is 1; allowed: a list"),
    ({"bad_words": [[]]}, ValueError, r"bad_words\[0\] has 0 tokens; allowed: 1 to 64"),
    ({"logit_bias": {5: math.nan}}, ValueError, r"logit_bias\[0\] is NaN; allowed: -10000 to 10000"),
    ({"logit_bias": [(5, 1), (5, 2)]}, ValueError, r"logit_bias\[1\] is token 5 again"),
    ({"logit_bias": [(5, 1, 2)]}, TypeError, r"logit_bias\[0\] is \(5, 1, 2\); allowed: a pair"),
    ({"logit_bias": {5: "high"}}, TypeError, "adds high; allowed: a number"),
    ({"banned_ids": [V], "logit_bias": {V: 1}}, ValueError, r"banned_ids\[0\] .*; logit_bias\[0\] "),
    ({"counts": {5: 1}, "no_repeat_ngram": 2}, ValueError, "no_repeat_ngram needs the order"),
    ({"output_length": -1}, ValueError, "output_length is -1; allowed"),
])
def test_adjustments_that_are_wrong_are_named(controls: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        logitd.sample(X, **controls)


def test_the_names_are_those_of_the_api() -> None:
    proto = (known.ROOT / "proto" / "logitd" / "v1" / "sampler.proto").read_text()
    message = re.search(r"^message Adjustments \{(.*?)^\}", proto, re.MULTILINE | re.DOTALL)
    assert message is not None
    names = re.findall(r"^  [\w ]+ (\w+) = \d+;", message[1], re.MULTILINE)
    assert [*names, "dry_breakers"] == list(_native.ADJUSTMENTS)
    assert [(status.name, status.value) for status in logitd.Status] == list(_native.STATUSES)


def test_the_stub_lists_what_there_is() -> None:
    stub = pathlib.Path(logitd.__file__).with_name("_native.pyi")
    classes = {node.name: node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ClassDef)}
    keys = lambda name: [node.target.id for node in classes[name].body if isinstance(node, ast.AnnAssign)]
    fields = [field["name"] for field in logitd.fields()]
    assert keys("Controls") == [*fields, "dry", *_native.ADJUSTMENTS, *_native.OPTIONS]
    assert [f"dry_{key}" for key in keys("_Dry")] == [*(name for name in fields if name.startswith("dry_")), "dry_breakers"]
    for name in ["Results", "Distribution", "History", "Sampler"]:
        described = {node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)}
        public = {name for name in dir(getattr(logitd, name)) if not name.startswith("_")}
        assert public <= described and described - public <= {"__new__", "__len__"}
