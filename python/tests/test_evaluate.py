"""`logitd.evaluate`: sums that are those of `logitd.sample` set by set, means that are those of `logitd tune`."""

import json
import math
import os
import pathlib
import subprocess
import threading
import time

import ml_dtypes
import numpy as np
import pytest

import logitd
import positions
from tensors import DLPack

METRICS = ("nll", "brier", "coverage", "tail", "entropy", "choices", "surprise", "mean_kept")
SUMS = ("hits", "kept", "logprob_q32", "probability_q32", "entropy_q32", "surprise_q32", "collision_q32", "tail_q32")
GRID = {"temperature": [0.0, 0.7, 1.3], "top_k": [None, 40, 1], "top_p": [0.95, 1.0], "min_p": [0, 0.05]}
SETTINGS = [
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.1, "top_k": 1000, "top_p": 0.95},
    {"temperature": 0.3},
    {"temperature": 1.37, "min_p": 0.013},
    {},
]


def rows(count: int = 12, vocab_size: int = 700, dtype: type = np.float16) -> tuple[np.ndarray, np.ndarray]:
    """Rows with ties, and a token of each."""
    random = np.random.default_rng(5)
    logits = np.round(random.normal(size=(count, vocab_size)) * 24) / 8
    return logits.astype(dtype), random.integers(vocab_size, size=count)


def test_what_is_kept_and_how_likely_the_reference_is_are_what_sampling_says() -> None:
    carried = positions.carried()
    few = slice(0, 64, 9)
    for logits, references in [(carried.logits[few], carried.references[few]), rows(), rows(dtype=np.float32), rows(dtype=ml_dtypes.bfloat16)]:
        found = logitd.evaluate(logits, references, **GRID, rows=True)
        assert found.row_kept is not None and found.row_kept_mass is not None and found.row_logprob is not None
        assert len(found) == 36
        for place in range(len(found)):
            for row, reference in enumerate(references):
                asked = logitd.Logprobs(["raw", "sampled"], ids=[int(reference)])
                drawn = logitd.sample(logits[row], **found.params_of(place), seed=1, logprobs=asked)
                assert (found.row_kept[row, place], found.row_kept_mass[row, place]) == (drawn.kept[0], drawn.kept_mass[0])
                assert found.row_logprob[row, place] == drawn.sampled.id_logprobs[0, 0]
                assert found.references.rank[row] == drawn.raw.id_ranks[0, 0] - 1
                assert found.references.logprob[row] == drawn.raw.id_logprobs[0, 0]
                assert found.references.entropy[row] == drawn.raw.entropy[0]
        hits = np.isfinite(found.row_logprob).sum(axis=0)
        assert found.hits.tolist() == [hits.tolist()]
        assert found.kept.tolist() == [found.row_kept.sum(axis=0, dtype=np.uint64).tolist()]
        assert hits.min() < hits.max() == len(references)
        nats = np.where(np.isfinite(found.row_logprob), found.row_logprob, -math.log(logits.shape[1])).mean(axis=0)
        assert np.allclose(found.nll, -nats, atol=1e-5)


@pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")
def test_means_are_those_of_logitd_tune_to_the_last_digit(tmp_path: pathlib.Path) -> None:
    carried = positions.carried()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGITD_", "RUST_"))}
    compared = [f"--compare={','.join(f'{k}={v}' for k, v in setting.items()) or 'temperature=1'}" for setting in SETTINGS]
    command = [os.environ["LOGITD"], "tune", "--json", "--search=sobol", "--sets=2", "--seed=1", *compared]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    lines = [line for line in lines if line["name"].startswith("temperature=")]
    assert len(lines) == len(SETTINGS)
    found = logitd.evaluate(carried.logits, carried.references, SETTINGS, groups=carried.groups)
    for metric in METRICS:
        assert getattr(found, metric).tolist() == [line[metric] for line in lines], metric
    assert found.hits.sum(axis=0).tolist() == [line["hits"] for line in lines]
    assert (len(found.groups), int(found.rows.sum()), int(found.rows_failed.sum())) == (6, 64, 0)
    dearer = found.mean("nll", miss_nats=20.0) - found.mean("nll", miss_nats=10.0)
    assert np.allclose(dearer, 10.0 * (1.0 - found.coverage))
    assert np.allclose(found.choices, 64 / (found.collision_q32.sum(axis=0) / 2.0**32))
    # A group's own means, weighted by its rows, are those of all.
    weights = found.rows / found.rows.sum()
    assert np.allclose((found.by_group("nll") * weights[:, None]).sum(axis=0), found.nll)


def test_sums_add_up_however_rows_are_spread() -> None:
    logits, references = rows(80)
    labels = np.arange(80, dtype=np.int64) % 3
    whole = logitd.evaluate(logits, references, **GRID, groups=labels, threads=1)
    again = logitd.evaluate(logits, references, **GRID, groups=labels, threads=3)
    parts = [logitd.evaluate(logits[part], references[part], **GRID, groups=labels[part]) for part in (slice(0, 2), slice(2, 33), slice(33, 80))]
    together = parts[0] + parts[1] + parts[2]
    assert parts[0].groups.tolist() == [0, 1]
    assert whole.groups.tolist() == together.groups.tolist() == [0, 1, 2] and whole.rows.tolist() == together.rows.tolist() == [27, 27, 26]
    for name in SUMS:
        sums = getattr(whole, name)
        assert sums.shape == (3, 36) and sums.any(), name
        assert (sums == getattr(again, name)).all(), name
        assert (sums == getattr(together, name)).all() and sums.dtype == getattr(together, name).dtype, name
    assert (whole.references.rank == together.references.rank).all() and (whole.nll == together.nll).all()
    assert (whole.row_kept, whole.row_kept_mass, whole.row_logprob) == (None, None, None)
    few = [logitd.evaluate(logits[part], references[part], temperature=0.7, rows=True) for part in (slice(0, 2), slice(2, 5), slice(0, 5))]
    added = few[0] + few[1]
    assert added.row_logprob is not None and few[2].row_logprob is not None and (added.row_logprob == few[2].row_logprob).all()
    assert (added + logitd.evaluate(logits, references, temperature=0.7)).row_kept is None
    with pytest.raises(ValueError, match="temperature of the two is not the same"):
        added + logitd.evaluate(logits, references, temperature=0.8)
    with pytest.raises(ValueError, match="vocab_size of the two is not the same"):
        added + logitd.evaluate(logits, np.zeros(80, int), temperature=0.7, vocab_size=600)
    with pytest.raises(ValueError, match="tail_share of the two is not the same"):
        added + logitd.evaluate(logits, references, temperature=0.7, tail_share=1e-3)


def test_sets_are_a_grid_a_list_or_columns() -> None:
    logits, references = rows(3)
    grid = logitd.evaluate(logits, references, **GRID)
    first = [grid.params_of(place) for place in range(3)]
    assert first == [
        {"temperature": 0.0, "top_k": 0, "top_p": 0.95, "min_p": 0.0},
        {"temperature": 0.0, "top_k": 0, "top_p": 0.95, "min_p": 0.05},
        {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    ]
    structured = np.zeros(36, [("temperature", "f4"), ("top_k", "i8"), ("top_p", "f8"), ("min_p", "f4")])
    for name, column in grid.params.items():
        structured[name] = column
    listed = [grid.params_of(place) for place in range(36)]
    for sets in (listed, iter(listed), grid.params, structured):
        again = logitd.evaluate(logits, references, sets)
        assert all((again.params[name] == column).all() for name, column in grid.params.items())
        assert (again.logprob_q32 == grid.logprob_q32).all()
    for temperature in (0.7, np.float32(0.7), np.float64(0.7), np.array(0.7)):
        one = logitd.evaluate(logits, references, {"temperature": temperature, "top_k": [-1, 5]})
        assert one.params["temperature"].tolist() == [np.float32(0.7)] * 2 and one.params["top_k"].tolist() == [0, 5]
    assert [len(logitd.evaluate(logits, references, sets)) for sets in (None, [{}], [], {"top_k": []})] == [1, 1, 0, 0]
    assert logitd.evaluate(logits, references).params_of(0) == {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def test_further_cuts_are_axes_too() -> None:
    logits, references = rows(5)
    grid = logitd.evaluate(logits, references, temperature=[0.6, 1.2], typical_p=[0.3, None], profile=["logitd", "llamacpp"], rows=True)
    assert list(grid.params) == ["temperature", "top_k", "top_p", "min_p", "profile", "typical_p"] and len(grid) == 8
    assert grid.params_of(2) == {"temperature": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "profile": "llamacpp", "typical_p": 0.3}
    for place in range(8):
        sampled = logitd.sample(logits, **grid.params_of(place), seed=1)
        assert grid.row_kept is not None and (grid.row_kept[:, place] == sampled.kept).all()
    again = logitd.evaluate(logits, references, [grid.params_of(place) for place in range(8)])
    assert (again.logprob_q32 == grid.logprob_q32).all() and (again.tail_q32 == grid.tail_q32).all()
    assert (logitd.evaluate(logits, references, grid.params).hits == grid.hits).all()
    with pytest.raises(ValueError, match="typical_p of the two is not the same"):
        grid + logitd.evaluate(logits, references, temperature=[0.6, 1.2], typical_p=[0.4, None], profile=["logitd", "llamacpp"], rows=True)


def test_logits_are_read_where_they_lie() -> None:
    logits, references = rows(9)
    plain = logitd.evaluate(logits, references, **GRID)
    wide = np.full((18, 1000), np.nan, np.float16)
    wide[::2, :700] = logits
    for other in (wide[::2, :700], DLPack(logits), np.asfortranarray(logits).copy(order="C")):
        assert (logitd.evaluate(other, list(references), **GRID).logprob_q32 == plain.logprob_q32).all()
    padded = logitd.evaluate(wide[::2], references.astype(np.int32), **GRID, vocab_size=700)
    assert (padded.logprob_q32 == plain.logprob_q32).all() and padded.vocab_size == 700
    single = logitd.evaluate(logits[0], references[:1], **GRID)
    assert len(single.references.rank) == 1


def test_rows_without_a_token_are_counted_and_left_out() -> None:
    logits, references = rows(5)
    plain = logitd.evaluate(np.delete(logits, [1, 3], axis=0), np.delete(references, [1, 3]), **GRID)
    logits[1, 7], logits[3] = np.nan, -np.inf
    found = logitd.evaluate(logits, references, **GRID, rows=True)
    assert (found.rows.tolist(), found.rows_failed.tolist()) == ([3], [2])
    assert found.references.status.tolist() == [0, logitd.Status.NAN, 0, logitd.Status.NO_CANDIDATE, 0]
    assert found.references.rank[1] == -1 and np.isnan(found.references.logprob[[1, 3]]).all()
    assert found.row_logprob is not None and np.isnan(found.row_logprob[[1, 3]]).all()
    assert (found.nll == plain.nll).all()
    lost = logitd.evaluate(logits[1:2], references[1:2], **GRID)
    assert all(np.isnan(lost.mean(metric)).all() for metric in METRICS)
    assert len(logitd.evaluate(logits[:0], []).groups) == 0


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"references": [1, 2]}, ValueError, "references has 2 values for 4 rows; allowed: one a row"),
        ({"references": [1, 2, 700, 3]}, ValueError, "references[2] is 700; allowed: a token of its row, 0 to 699"),
        ({"references": [1, 2, -1, 3]}, ValueError, "references[2] is -1; allowed: whole numbers, 0 to 4294967295"),
        ({"references": np.ones(4)}, TypeError, "references is an array of float64; allowed: whole numbers"),
        ({"groups": [0, 0, 1]}, ValueError, "groups has 3 values for 4 rows; allowed: one a row"),
        ({"sets": [{"top_p": 0.9}, {"top_p": 1.5}]}, ValueError, "sets[1]: top_p is 1.5; allowed: "),
        ({"sets": [{"top_q": 0.9}]}, TypeError, "sets[0] has top_q (did you mean top_p?); sets can have: temperature, top_k, top_p, min_p"),
        ({"sets": [{"xtc_probability": 0.5}]}, ValueError, "set 0 has xtc_probability 0.5; allowed in sets: 0 or 1"),
        ({"profile": ["hf", "ollama"]}, ValueError, "profile[1]: profile is ollama; allowed: logitd, hf"),
        ({"sets": [{"repetition_penalty": 1.1}]}, TypeError, "sets[0] has repetition_penalty; sets can have: temperature"),
        ({"sets": [0.9]}, TypeError, "sets[0] is a <class 'float'>; allowed: a dict of parameters"),
        ({"sets": 5}, TypeError, "sets is 5; allowed: a list of dicts, or columns"),
        ({"sets": {"top_k": [1, 2], "min_p": [0.1]}}, ValueError, "sets[\"min_p\"] has 1 values and sets[\"top_k\"] has 2; allowed: as many"),
        ({"sets": {"top_k": [1, -2]}}, ValueError, "sets[\"top_k\"][1]: top_k is -2; allowed: "),
        ({"sets": [{}], "top_k": 5}, TypeError, "there are sets, and values of ['top_k'] beside them; allowed: one of the two"),
        ({"temperature": [0.5, -1.0]}, ValueError, "temperature[1]: temperature is -1; allowed: "),
        ({"min_p": []}, ValueError, "min_p has no value; allowed: at least one, or None"),
        ({"temperature": np.ones(1 << 11), "min_p": np.ones(1 << 10)}, ValueError, "there are 2097152 sets or more; allowed: up to 1048576"),
        ({"tail_share": 1.0}, ValueError, "tail_share is 1.0; allowed: above 0 and below 1, as a float32"),
        ({"tail_share": 1e-50}, ValueError, "tail_share is 1e-50; allowed: above 0"),
        ({"tail_share": 0.999999999}, ValueError, "tail_share is 0.999999999; allowed: above 0"),
        ({"threads": -1}, ValueError, "threads is -1; allowed: 0 (one for each core) to 1024"),
        ({"vocab_size": 701}, ValueError, "vocab_size is 701; allowed: 1 to 700"),
        ({"logits": np.zeros((4, 700))}, TypeError, "logits is an array of float64; allowed: float16, bfloat16, float32"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(asked: dict, error: type[Exception], said: str) -> None:
    logits, references = rows(4)
    with pytest.raises(error) as raised:
        logitd.evaluate(**({"logits": logits, "references": references} | asked))
    assert said in str(raised.value)


def test_a_metric_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="metric is 'perplexity'; allowed: nll, brier, coverage"):
        logitd.evaluate(*rows(2)).mean("perplexity")  # type: ignore[arg-type]


def test_the_gil_is_released_meanwhile() -> None:
    carried = positions.carried()
    seen, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(time.perf_counter())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    logitd.evaluate(carried.logits, carried.references, temperature=np.linspace(0.3, 2.0, 40), threads=1)
    ended = time.perf_counter()
    done.set()
    watcher.join()
    during = [at for at in seen if began < at < ended]
    print(f"looked {len(during)} times in {ended - began:.3f} s")
    assert len(during) >= 10


def test_a_grid_costs_a_fraction_of_sampling() -> None:
    carried = positions.carried()
    axes = {
        "temperature": [i / 20 for i in range(6, 26)] + [i / 10 for i in range(13, 21)],
        "top_k": [5, 10, 20, 40, 80, 160, 320, 1000, 0],
        "top_p": [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0],
        "min_p": [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3],
    }
    began = time.process_time()
    found = logitd.evaluate(carried.logits, carried.references, **axes, threads=1)
    whole = time.process_time() - began
    sampler, asked = logitd.Sampler(threads=1), logitd.Logprobs("sampled", ids=[1])
    began = time.process_time()
    sampler.sample(carried.logits, temperature=1.1, top_k=1000, top_p=0.95, seed=1, logprobs=asked)
    pair = (time.process_time() - began) / len(carried.logits)
    print(f"{len(found)} sets x {len(carried.logits)} rows: {whole:.2f} s of CPU, {whole / 64 / len(found) * 1e6:.2f} us a pair; sampled, {pair * 1e6:.0f}")
    # Measured: a six-hundredth.
    assert whole / 64 / len(found) < pair / 20
