"""Samplers: threads, the GIL, forks."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import logitd

X = np.random.default_rng(5).normal(0, 3, (8, 150_000)).astype(np.float32)
RULES = {"temperature": 0.8, "top_p": 0.95, "seed": range(8), "draws": 3}


def test_every_way_to_compute_gives_the_same_bits() -> None:
    expected = logitd.Sampler(device="reference").sample(X, **RULES)
    samplers = [logitd.Sampler(threads=n) for n in [1, 2, 7]] + [logitd.Sampler(isa="portable")]
    for sampler in samplers:
        results = sampler.sample(X, **RULES)
        assert results.draws.tolist() == expected.draws.tolist(), sampler
        assert results.draw_logprobs.tobytes() == expected.draw_logprobs.tobytes(), sampler


def test_a_sampler_says_what_it_is() -> None:
    sampler = logitd.Sampler(threads=2, isa="portable")
    assert (sampler.device, sampler.isa, sampler.threads) == ("cpu", "portable", 2)
    assert repr(sampler) == 'Sampler(threads=2, isa="portable", device="cpu")'
    for arguments, said in [
        ({"isa": "sse9"}, "instruction set \"sse9\" is unknown; there are: portable, avx2, avx512"),
        ({"threads": -1}, "threads is -1; allowed: 0 .one for each core. to 1024"),
        ({"threads": 5000}, "threads is 5000; allowed: 0 .one for each core. to 1024"),
        ({"device": "cuda"}, "device is cuda; allowed: cpu, reference, or cuda:0 and so on"),
        ({"device": "cuda:0", "isa": "avx2"}, "the device cuda:0 has no threads and no isa"),
        ({"device": "reference", "threads": 2}, "reference has no threads"),
    ]:
        with pytest.raises(ValueError, match=said):
            logitd.Sampler(**arguments)


def test_threads_share_a_sampler() -> None:
    expected = logitd.sample(X, **RULES).draws.tolist()
    got: list[list[list[int]]] = []

    def work() -> None:
        for _ in range(5):
            got.append(logitd.sample(X, **RULES).draws.tolist())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 30


def test_the_gil_is_released_while_rows_are_sampled() -> None:
    # The slowest sampler, on one thread: hundreds of milliseconds, in which this thread must go on.
    sampler = logitd.Sampler(device="reference")
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        sampler.sample(X, **RULES)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    steps = 0
    while not ended.is_set():
        time.sleep(0.001)
        steps += 1
    thread.join()
    print(f"{steps} steps beside the sampler")
    assert steps > 10


def test_a_fork_samples_with_threads_of_its_own() -> None:
    sampler = logitd.Sampler(threads=3)
    expected = sampler.sample(X, **RULES).draws.tolist()
    child = os.fork()
    if child == 0:
        # Not pytest's: it must not go on here.
        same = sampler.sample(X, **RULES).draws.tolist() == expected
        same &= logitd.sample(X, **RULES).draws.tolist() == expected
        os._exit(0 if same else 3)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child did not come back within a minute")
    assert os.waitstatus_to_exitcode(status) == 0
    assert sampler.sample(X, **RULES).draws.tolist() == expected
