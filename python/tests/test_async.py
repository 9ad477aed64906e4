"""The client for asyncio, against the real binary."""

import asyncio
import gc
import os
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

import logitd
from logitd import AsyncClient, errors
from logitd._native import AsyncConnection
from logitd.testing import assert_same_bits, logitd_server

__all__ = ["logitd_server"]

pytestmark = pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")

X = np.random.default_rng(9).normal(0, 3, (6, 5000)).astype(np.float16)
RULES: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": range(6), "draws": [1, 2, 3, 1, 1, 9], "logprobs": "raw"}
# The most work that a request may be: most of a second for the slowest sampler there is.
MANY = X[:3]
SLOW: dict[str, Any] = {"draw_rule": "race", "draws": 1000, "seed": 1}


def run(work: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


@pytest.mark.parametrize("plane", ["auto", "inline", "chunked", "shared_memory", "direct", "tcp"])
def test_a_hundred_calls_at_once_are_the_same_to_the_bit(plane: Any, logitd_server: logitd.Server) -> None:
    target = logitd_server.address if plane == "tcp" else logitd_server.target
    client = AsyncClient(target, plane="auto" if plane == "tcp" else plane, timeout=60, retries_max=100)
    batches = [(X[:, : 5000 - 10 * i] + np.float16(i % 7)) for i in range(100)]
    expected = [logitd.sample(x, **RULES) for x in batches]

    async def work() -> None:
        began = time.perf_counter()
        for _ in range(2):
            found = await asyncio.gather(*(client.sample(x, **RULES) for x in batches))
            for a, b in zip(found, expected, strict=True):
                assert_same_bits(a, b)
                assert a.raw.ranks.tolist() == b.raw.ranks.tolist()
        print(f"{plane}: 200 calls in {time.perf_counter() - began:.3f} s")
        # What has no memory yet, and what fits into none.
        large = np.tile(X, (12, 10))
        assert_same_bits(await client.sample(large, top_k=5, seed=3), logitd.sample(large, top_k=5, seed=3))
        assert len(await client.sample(X[:0])) == 0
        assert (await client.info())["version"] == logitd.__version__

    run(work())


def test_what_is_sampled_is_taken_when_a_call_begins(logitd_server: logitd.Server) -> None:
    async def work() -> None:
        client = AsyncClient(logitd_server.target)
        x = X.copy()
        for _ in range(5):
            x[:] = X
            task = asyncio.create_task(client.sample(x, **RULES))
            await asyncio.sleep(0)
            x[:] = np.nan
            assert_same_bits(await task, logitd.sample(X, **RULES))

    run(work())


def test_the_event_loop_goes_on_beside_a_call(logitd_server: logitd.Server) -> None:
    async def work() -> None:
        client = AsyncClient(logitd_server.target)
        task = asyncio.create_task(client.sample(MANY, **SLOW))
        steps = 0
        while not task.done():
            await asyncio.sleep(0.001)
            steps += 1
        await task
        print(f"{steps} steps beside the call")
        assert steps > 10

    run(work())


@pytest.mark.parametrize("plane", ["inline", "shared_memory", "direct"])
def test_a_call_that_is_cancelled_is_cancelled_at_the_server(plane: Any) -> None:
    async def work(server: logitd.Server, metrics: str) -> None:
        client = AsyncClient(server.target, plane=plane)
        await client.sample(X, **RULES)
        for way in ["cancel", "timeout"]:
            before = cancelled(metrics)
            call = client.sample(MANY, **SLOW)
            if way == "cancel":
                task = asyncio.create_task(call)
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(call, 0.05)
            for _ in range(600):
                if cancelled(metrics) > before:
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail("the server has not heard of it")
        assert_same_bits(await client.sample(X, **RULES), logitd.sample(X, **RULES))

    with logitd.Server("reference", "--metrics-listen=127.0.0.1:0") as server:
        address = re.search(r'"metrics","address":"([^"]+)"', server.log())
        assert address is not None, server.log()
        run(work(server, address[1]))


def cancelled(address: str) -> float:
    """How many calls were cancelled so far, by the server's metrics."""
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(r'logitd_requests_total.*CANCELLED', line))


def test_a_call_has_a_deadline() -> None:
    async def work(server: logitd.Server) -> None:
        client = AsyncClient(server.target, timeout=0.1)
        for _ in range(2):
            with pytest.raises(errors.DeadlineExceeded):
                await client.sample(MANY, **SLOW)
        fast = AsyncClient(server.target, timeout=60)
        assert len(await fast.sample(X[0], seed=1)) == 1

    with logitd.Server("reference") as server:
        run(work(server))


def test_errors_are_those_of_the_client_and_leave_it_as_it_was(logitd_server: logitd.Server) -> None:
    async def work() -> None:
        client = AsyncClient(logitd_server.target, plane="inline")
        with pytest.raises(ValueError, match="temperature is -1"):
            await client.sample(X, temperature=-1)
        with pytest.raises(errors.InvalidArgument, match="vocab_size is 0; allowed: 1 to 1048576"):
            await client.sample(np.zeros((1, 0), np.float32))
        assert_same_bits(await client.sample(X, **RULES), logitd.sample(X, **RULES))
        with pytest.raises(errors.Unavailable, match="cannot connect"):
            await AsyncClient("unix:/no/such/socket").sample(X)

    with pytest.raises(ValueError, match="plane is pigeon"):
        AsyncClient("unix:/x", plane="pigeon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option plain; there are: plane, timeout"):
        AsyncClient("unix:/x", plain="inline")  # type: ignore[call-arg]
    assert repr(AsyncClient("unix:/x")) == "AsyncClient('unix:/x')"
    run(work())


def test_a_loop_that_ends_leaves_its_calls(logitd_server: logitd.Server) -> None:
    client = AsyncClient(logitd_server.target)

    async def leave() -> None:
        asyncio.get_running_loop().create_task(client.sample(MANY, **SLOW))
        await asyncio.sleep(0.02)

    for _ in range(3):
        asyncio.run(leave())
    # Another loop goes on with the connection; and a client that goes in the midst of a call takes it along.
    run(client.sample(X, **RULES))
    asyncio.run(leave())
    del client
    gc.collect()


def test_a_client_may_end_in_any_thread_and_calls_may_begin_there(logitd_server: logitd.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # A client whose memory has been used, so that it has every kind of thread.
    clients = [logitd.Client(logitd_server.target, plane=plane) for plane in ("direct", "inline")]
    for client in clients:
        client.sample(X, **RULES)
    other = logitd.Client(logitd_server.target)
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    found: list[Any] = []
    told = threading.Event()

    def done(value: Any, error: BaseException | None) -> None:
        # What the collector does where it happens to run: here, in a thread of the connection.
        found.append(threading.current_thread() is not threading.main_thread())
        clients.clear()
        try:
            found.append(other.sample(X, **RULES))
        except BaseException as raised:
            found.append(raised)
        told.set()

    del client
    AsyncConnection(logitd_server.target).info(done)
    assert told.wait(60)
    assert found[0] and not unraisable, unraisable
    assert_same_bits(found[1], logitd.sample(X, **RULES))


@pytest.mark.parametrize("flag", ["--shm-connections-per-peer-max=1", "--shm-regions-per-peer-max=1"])
def test_where_memory_cannot_be_shared_bytes_are_sent(flag: str) -> None:
    async def work(server: logitd.Server) -> None:
        expected = logitd.sample(X, **RULES)
        client, late = AsyncClient(server.target), AsyncClient(server.target)
        async with client.staging((6, 5000), "f16") as buf:
            buf.array[:] = X
            for _ in range(2):
                assert_same_bits(await client.sample(buf, **RULES), expected)
                assert_same_bits(await late.sample(X, **RULES), expected)
            part = buf.array[::2, :4096]
            assert_same_bits(await client.sample(part, seed=[1, 2, 3]), logitd.sample(part.copy(), seed=[1, 2, 3]))
        # Memory that is free is written to before the call begins.
        found = await asyncio.gather(*(client.sample(X, **RULES) for _ in range(9)))
        for results in found:
            assert_same_bits(results, expected)

    with logitd.Server("cpu", flag) as server:
        run(work(server))


def test_a_call_that_goes_with_its_connection_says_so() -> None:
    found: list[Any] = []
    told = threading.Event()

    def done(value: Any, error: BaseException | None) -> None:
        found.extend([value, error])
        told.set()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        AsyncConnection(target).info(done)
        gc.collect()
        assert told.wait(60)
        assert found[0] is None and isinstance(found[1], RuntimeError) and "ended without an answer" in str(found[1])
        # One that was cancelled says nothing: the other, which came later, has.
        cancelled = AsyncConnection(target)
        cancelled.info(lambda *_: found.append("cancelled")).cancel()
        told.clear()
        del cancelled
        AsyncConnection(target).info(done)
        gc.collect()
        assert told.wait(60) and "cancelled" not in found


def test_memory_is_staged(logitd_server: logitd.Server) -> None:
    async def work() -> None:
        client = AsyncClient(logitd_server.target, plane="direct")
        async with client.staging((6, 5000), "f16") as buf, client.staging((6, 5000), "f16") as other:
            buf.array[:], other.array[:] = X, X[::-1]
            found = await asyncio.gather(client.sample(buf, **RULES), client.sample(other, **RULES), client.sample(buf, seed=3))
        for results, expected in zip(found, [logitd.sample(X, **RULES), logitd.sample(X[::-1], **RULES), logitd.sample(X, seed=3)], strict=True):
            assert_same_bits(results, expected)

    run(work())
