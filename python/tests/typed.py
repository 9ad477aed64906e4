"""What type checkers are to let through, and what not: read by mypy and pyright, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import array

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import logitd
from logitd.llama_cpp import Drawn, generate
from logitd.testing import assert_same_bits, replay
from logitd.transformers import LogitsProcessor, custom_generate
from logitd.tune import metrics, suggest
from logitd.tune.space import Trial
from tensors import DLPack

x = np.zeros((2, 9), np.float16)

results = logitd.sample(x, temperature=0.8, top_k=[50, None], top_p=np.array([0.9, 0.95]), seed=7, draw_rule="race")
assert_type(results, logitd.Results)
assert_type(results.raise_for_status().tokens, npt.NDArray[np.int64])
assert_type(results.logprobs, npt.NDArray[np.float32])
logitd.sample(DLPack(x))
logitd.sample(array.array("f", [1.0]))
logitd.sample(memoryview(array.array("f", [1.0])), dry={"multiplier": 0.8, "breakers": [[1]]})
logitd.sample(x, allowed_bitmask=np.zeros((2, 1), np.int32), logit_bias={5: 1.5}, counts=[(1, 2)])
logitd.sample(x, banned_ids=[[1], None], bad_words=[[1, 2]], prompt=range(5), output=[np.arange(3), np.arange(5)])
asked = logitd.sample(x, logprobs=logitd.Logprobs(["raw", "sampled"], top=20, ids=[1]), return_kept=[True, False], vocab_size=8, on_invalid_row="status")
assert_type(asked.raw, logitd.Distribution)
assert_type(asked.sampled.top_tokens, npt.NDArray[np.int64])
assert_type(asked.kept_ids[0], npt.NDArray[np.uint32] | None)
assert_type(asked.violations[0], tuple[str, str])
logitd.sample(x, logprobs=["raw", None, logitd.Logprobs("adjusted")])
history = logitd.History(range(5))
history.append(results.tokens[0])
logitd.sample(x, history=[history, None])
found = logitd.evaluate(x, [1, 2], temperature=np.linspace(0.5, 1.5, 9), top_k=[None, 40], min_p=0.05, groups=np.arange(2), rows=True)
assert_type(found, logitd.Evaluation)
assert_type(found + found, logitd.Evaluation)
assert_type(found.nll, npt.NDArray[np.float64])
assert_type(found.by_group("choices", miss_nats=12.0), npt.NDArray[np.float64])
assert_type(found.references.rank, npt.NDArray[np.int64])
assert_type(found.row_logprob, npt.NDArray[np.float32] | None)
logitd.evaluate(DLPack(x), np.zeros(2, np.uint32), [{"temperature": 0.8}, {"top_k": 40}])
logitd.evaluate(x, [1, 2], found.params)
assert_type(metrics.distinct(["a b", [1, 2]], 2), float)
assert_type(metrics.pass_at_k(10, 3, 1), float)


def objective(trial: Trial) -> float:
    return float(logitd.sample(x, **suggest(trial, temperature=(0.5, 1.5), min_p=None)).kept[0])


sampler = logitd.Sampler(threads=2, isa="avx2")
assert_type(sampler.sample(x, top_k=-1), logitd.Results)
logitd.Status(int(results.status[0])).name.lower()
[field["allowed"] for field in logitd.fields()]

with logitd.Server("cpu", "--threads=1") as server:
    client = logitd.Client(server.target, plane="direct", timeout=5, tls_identity=(b"", b""))
    assert_type(client.sample(x, temperature=0.8), logitd.Results)
    assert_type(client.info()["devices"], list[str])
    with client.staging((2, 9), "f16") as buf:
        assert_type(buf, logitd.Staging)
        assert_type(client.sample(buf, seed=7), logitd.Results)
        buf.array[:] = x
    custom_generate(sampler=client, temperature=0.8, seed=[7, 8])
assert_type(LogitsProcessor(sampler=sampler, each_step=lambda ids: {"allowed_ids": [1]}).seeds, npt.NDArray[np.uint64])
assert_type(list(generate(None, [1, 2], max_tokens=9, sampler=sampler, seed=7)), list[Drawn])


async def work() -> None:
    client = logitd.AsyncClient("unix:/x", timeout=5)
    assert_type(await client.sample(x, temperature=0.8), logitd.Results)
    assert_type((await client.info())["version"], str)
    async with client.staging((2, 9), "bf16") as buf:
        assert_type(await client.sample(buf), logitd.Results)
    await client.sample(x, tempreature=0.7)  # type: ignore[call-arg]
    logitd.AsyncClient("unix:/x", plane="pigeon")  # type: ignore[arg-type]


try:
    pass
except logitd.errors.Error as error:
    assert_type(error.retry_after, float | None)
assert_same_bits(results, results)
assert_type(replay("a.trace", "reference", binary="logitd"), str)

# Each of these is an error, and a checker that lets it through says that the comment is not needed.
logitd.sample()  # type: ignore[call-arg]
logitd.sample(3)  # type: ignore[arg-type]
logitd.sample(x, tempreature=0.7)  # type: ignore[call-arg]
logitd.sample(x, temperature="0.7")  # type: ignore[arg-type]
logitd.sample(x, banned_ids=5)  # type: ignore[arg-type]
logitd.Client(plane="inline")  # type: ignore[call-arg]
logitd.Client("unix:/x", plane="pigeon")  # type: ignore[arg-type]
custom_generate(tempreature=0.7)  # type: ignore[call-arg]
custom_generate(sampler=logitd.sample)  # type: ignore[arg-type]
logitd.Sampler(isa="sse9")  # type: ignore[arg-type]
logitd.sample(x, logprobs="rw")  # type: ignore[arg-type]
logitd.Logprobs("rw")  # type: ignore[arg-type]
logitd.evaluate(x)  # type: ignore[call-arg]
logitd.evaluate(x, [1, 2], temperatures=[0.5])  # type: ignore[call-arg]
suggest(3)  # type: ignore[arg-type]
found.mean("perplexity")  # type: ignore[arg-type]
results.tokens = results.tokens  # type: ignore[misc]

verified = logitd.verify(x, [1], mode="rejection", distributions=logitd.DraftLogits(x[:1], temperature=0.8), temperature=[0.8])
assert_type(verified, logitd.Verified)
assert_type(verified.tokens_of(0), npt.NDArray[np.uint32])
history.extend(verified.tokens_of(0))
logitd.verify(x, [[], []], parents=None, row_allowed_bitmask=np.zeros((2, 1), np.int32), distributions=[None, {5: 1}, np.zeros(9, np.float32)])
logitd.verify(x, [1], moed="match")  # type: ignore[call-arg]
logitd.verify(x, [1], mode="greedy")  # type: ignore[arg-type]
[group] = logitd.beam_step(x, [0, -1], beams=2, eos_ids=[3], min_tokens=2)
assert_type(group.running.scores, npt.NDArray[np.int64])
search = logitd.BeamSearch(2, beams=4, early_stopping="never")
search.step(x, logitd.Sampler(), temperature=0.5, banned_ids=[1])
search.step(x, top_k=5)  # type: ignore[call-arg]
assert_type(search.found[0][0].tokens, npt.NDArray[np.uint32])
