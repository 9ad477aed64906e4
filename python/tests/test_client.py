"""The client against the real binary: every plane gives what the sampler in process gives."""

import os
import pathlib
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import known
import numpy as np
import pytest
import trustme
from test_vectors import FILES, expect
from tensors import DLPack

import logitd
from logitd import errors
from logitd.testing import assert_same_bits, logitd_server

__all__ = ["logitd_server"]

pytestmark = pytest.mark.skipif("LOGITD" not in os.environ, reason="LOGITD names no binary (cargo build --release makes one)")

PLANES = ["auto", "inline", "chunked", "shared_memory", "direct"]
X = np.random.default_rng(9).normal(0, 3, (6, 5000)).astype(np.float16)
RULES = {"temperature": 0.8, "top_k": [40, 0, 5, 7, 100, 1], "top_p": 0.95, "seed": range(6), "draws": [1, 2, 3, 1, 1, 9]}


@pytest.fixture(scope="module", params=[*PLANES, "tcp"])
def client(request: pytest.FixtureRequest, logitd_server: logitd.Server) -> Iterator[logitd.Client]:
    if request.param == "tcp":
        yield logitd.Client(logitd_server.address, timeout=60)
    else:
        yield logitd.Client(logitd_server.target, plane=request.param, timeout=60)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_known_answers(name: str, client: logitd.Client) -> None:
    # Over a connection, one case at a time takes its time: those of real rows are sampled in process too.
    cases = FILES[name][0]()
    for case in cases[::8] if len(cases) > 90 else cases:
        expect(case, client.sample(case.row, **case.controls))


def test_batches_are_the_same_to_the_bit(client: logitd.Client) -> None:
    expected = logitd.sample(X, **RULES)
    assert_same_bits(client.sample(X, **RULES), expected)
    assert_same_bits(client.sample(np.ascontiguousarray(np.pad(X, ((0, 0), (0, 24))))[:, :5000], **RULES), expected)
    assert_same_bits(client.sample(DLPack(X), **RULES), expected)
    # Larger than what is shared so far, and than a chunk.
    large = np.tile(X, (12, 10))
    rules = {"top_k": 5, "seed": range(72)}
    assert_same_bits(client.sample(large, **rules), logitd.sample(large, **rules))
    assert len(client.sample(X[:0])) == 0


@pytest.mark.parametrize("field", logitd.fields(), ids=lambda field: field["name"])
def test_every_parameter_gets_there(field: dict[str, Any], client: logitd.Client) -> None:
    values = {"temperature": 0.3, "top_k": 3, "top_p": 0.3, "min_p": 0.2, "seed": 2**64 - 1, "position": 77, "draws": 5, "draw_rule": "race", "draft": True,
              "repetition_penalty": 1.7, "frequency_penalty": 1.5, "presence_penalty": -2, "no_repeat_ngram": 2, "min_tokens": 50,
              "dry_multiplier": 5, "dry_base": 3, "dry_allowed_length": 1, "dry_last_n": 4, "profile": "llamacpp", "top_n_sigma": 0.5,
              "top_h": 0.3, "top_a": 0.5, "epsilon_cutoff": 0.05, "eta_cutoff": 0.3, "typical_p": 0.3, "mirostat_tau": 3, "mirostat_eta": 0.5,
              "mirostat_mu": 1, "xtc_probability": 0.9, "xtc_threshold": 0.03, "adaptive_target": 0.5, "adaptive_decay": 0.5,
              "adaptive_sum": 0.5, "adaptive_weight": 2, "dynatemp_range": 0.7, "dynatemp_exponent": 3}
    x = np.random.default_rng(2).normal(0, 1, (1, 30)).astype(np.float32)
    # Its end stands in it once more, before the likeliest token.
    rules = {"seed": 5, "draws": 64, "prompt": [7, 20, 5, 8, 26, 9, 11], "output": [7, 20, 5, 8], "stop_ids": list(range(9)), "dry": {"breakers": [[3, 4]]}}
    # What is nothing by itself is set beside what makes it something.
    beside = {"dry": {"dry_multiplier": 2}, "profile": {"temperature": 0.5, "top_p": 0.5}, "mirostat": {"draws": 1, "mirostat_tau": 2},
              "xtc": {"xtc_probability": 0.001, "seed": 8}, "adaptive": {"draws": 1, "adaptive_target": 0.1}, "dynatemp": {"dynatemp_range": 0.5}}
    rules |= beside.get(field["name"].split("_")[0], {})
    if field["name"] == "xtc_threshold":
        rules["xtc_probability"] = 1
    changed = rules | {field["name"]: values[field["name"]]}
    before, after = logitd.sample(x, **rules), logitd.sample(x, **changed)
    with pytest.raises(AssertionError, match="row 0 differs|has the shape"):
        assert_same_bits(before, after)
    assert_same_bits(client.sample(x, **changed), after)


def test_rows_with_a_state_stand_beside_rows_without(client: logitd.Client) -> None:
    rules = {"seed": range(6), "top_k": 40, "mirostat_tau": [0, 4, 0, 0, 4, 0], "adaptive_target": [None, None, 0.3, None, None, 0]}
    here = there = dict(rules)
    for position in range(4):
        found, expected = client.sample(X, position=position, **there), logitd.sample(X, position=position, **here)
        assert_same_bits(found, expected)
        assert np.isnan(found.mirostat_mu).tolist() == [True, False, True, True, False, True]
        assert np.isnan(found.adaptive_sum).tolist() == np.isnan(found.adaptive_weight).tolist() == [True, True, False, True, True, False]
        here, there = (
            rules | {name: getattr(results, name) for name in ["mirostat_mu", "adaptive_sum", "adaptive_weight"]} for results in (expected, found)
        )
    # Parameters in messages, since what is asked for differs.
    asked = {"logprobs": ["raw", None, None, None, "sampled", None]}
    assert_same_bits(client.sample(X, **there, **asked), logitd.sample(X, **here, **asked))


def test_every_adjustment_gets_there(client: logitd.Client) -> None:
    x = np.random.default_rng(2).normal(0, 1, (2, 40)).astype(np.float32)
    rules = {"seed": [1, 2], "draws": 40, "repetition_penalty": 1.5, "min_tokens": 5}
    for adjustment in [
        {"allowed_bitmask": np.array([[0xFFFF, 0], [0xFF00FF, 1]], np.uint32)}, {"allowed_ids": [[1, 2, 3], None]}, {"banned_ids": [1, 2, 3]},
        {"bad_words": [[[4], [5, 6]], [[7]]], "prompt": [5]}, {"stop_ids": [1, 2, 3], "output_length": [4, 5]}, {"logit_bias": {3: 5.5, 4: float("-inf")}},
        {"prompt": [1, 2], "output": [3, 99]}, {"counts": {3: 4, 5: 0}}, {"history": [logitd.History([1, 2], [3, 99]), None]}, {"dry": {"multiplier": 3, "breakers": [[2]]}, "prompt": [1, 2, 3, 1, 2]},
    ]:
        assert_same_bits(client.sample(x, **rules, **adjustment), logitd.sample(x, **rules, **adjustment))


def test_what_is_told_beside_tokens_is_the_same_to_the_bit(client: logitd.Client) -> None:
    asked = [logitd.Logprobs(["raw", "adjusted", "sampled"], top=7, ids=[1, 4999]), "raw", None, logitd.Logprobs("sampled", top=3), "adjusted", "raw"]
    rules = RULES | {"logprobs": asked, "return_kept": [True, True, True, False, True, True], "banned_ids": [5]}
    found, expected = client.sample(X, **rules), logitd.sample(X, **rules)
    assert_same_bits(found, expected)
    for distribution in ["raw", "adjusted", "sampled"]:
        for name in ["status", "entropy", "logprobs", "ranks", "draw_logprobs", "draw_ranks", "top_tokens", "top_logprobs", "id_logprobs", "id_ranks"]:
            of = [getattr(getattr(results, distribution), name) for results in (found, expected)]
            assert of[0].shape == of[1].shape and of[0].tobytes() == of[1].tobytes(), (distribution, name)
    assert found.kept_bitmask.tobytes() == expected.kept_bitmask.tobytes() and found.kept_bitmask.any(axis=1).tolist() == [True] * 3 + [False] + [True] * 2
    assert [ids is None for ids in found.kept_ids] == [ids is None for ids in expected.kept_ids]


def test_padding_is_never_looked_at(client: logitd.Client) -> None:
    padded = np.full((6, 5056), np.nan, np.float16)
    padded[:, :5000] = X
    assert_same_bits(client.sample(padded, vocab_size=5000, **RULES), logitd.sample(X, **RULES))


def test_wrong_rows_have_a_status_where_it_is_asked_for(client: logitd.Client) -> None:
    rules = RULES | {"temperature": [0.8, -1, 0.8, 0.8, 0.8, 0.8], "on_invalid_row": "status"}
    found, expected = client.sample(X, **rules), logitd.sample(X, **rules)
    assert_same_bits(found, expected)
    assert found.violations == expected.violations and list(found.violations) == [1]


def test_what_only_the_server_finds_wrong_has_a_status_too() -> None:
    with logitd.Server("cpu", "--top-logprobs-max=4") as server:
        client = logitd.Client(server.target)
        asked = [None, logitd.Logprobs("raw", top=5), "raw", None, None, None]
        with pytest.raises(errors.InvalidArgument, match="top_logprobs_max"):
            client.sample(X, logprobs=asked)
        results = client.sample(X, **RULES, logprobs=asked, on_invalid_row="status")
        assert results.status.tolist() == [0, 4, 0, 0, 0, 0]
        assert results.violations[1][0] == "params.logprobs.top" and "is 5; allowed: 0 to 4" in results.violations[1][1]
        assert results.raw.status.tolist() == [255, 255, 0, 255, 255, 255]
        assert results.tokens[2:].tolist() == logitd.sample(X, **RULES).tokens[2:].tolist()


def test_rows_without_a_token(client: logitd.Client) -> None:
    x = np.array([[1, 2], [np.nan, 2], [np.inf, 1], [-np.inf] * 2], np.float32)
    results = client.sample(x, draws=2, seed=3)
    assert_same_bits(results, logitd.sample(x, draws=2, seed=3))
    with pytest.raises(logitd.RowError, match="row 1 has no token: NAN"):
        results.raise_for_status()


def test_seeds_that_are_left_out_come_back(client: logitd.Client) -> None:
    results = client.sample(X)
    assert_same_bits(logitd.sample(X, seed=results.seeds), results)


def test_what_is_wrong_is_said_before_anything_is_sent(client: logitd.Client) -> None:
    with pytest.raises(ValueError, match="temperature is -1; allowed"):
        client.sample(X, temperature=-1)
    with pytest.raises(TypeError, match="float64"):
        client.sample(X.astype(np.float64))


def test_what_the_server_refuses_is_named_and_leaves_the_client_as_it_was(client: logitd.Client) -> None:
    # In memory it is the length that is wrong first.
    with pytest.raises(errors.InvalidArgument, match="(vocab_size|length_bytes) is 0; allowed: 1 to ") as raised:
        client.sample(np.zeros((1, 1 << 20), np.float32)[:, :0])
    assert raised.value.code == "InvalidArgument" and isinstance(raised.value, ValueError)
    assert_same_bits(client.sample(X, **RULES), logitd.sample(X, **RULES))


class Liar:
    """Passes connections on to a server, and has other bytes in its answers, as many."""

    def __init__(self, address: str, said: bytes, lie: bytes):
        assert len(said) == len(lie)
        host, port = address.removeprefix("http://").rsplit(":", 1)
        self.server, self.said, self.lie, self.lies = (host, int(port)), said, lie, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        client, _ = self.listener.accept()
        server = socket.create_connection(self.server)
        threading.Thread(target=self.copy, args=(client, server), daemon=True).start()
        self.copy(server, client, self.said)

    def copy(self, source: socket.socket, sink: socket.socket, said: bytes = b"") -> None:
        with source, sink:
            try:
                while chunk := source.recv(1 << 16):
                    if said:
                        self.lies += chunk.count(said)
                        chunk = chunk.replace(said, self.lie)
                    sink.sendall(chunk)
            except OSError:
                pass


# 5006 is the first token that there is not: as an id, and as the bit after the last.
@pytest.mark.parametrize(("controls", "said", "lie"), [
    ({"allowed_ids": [5003, 5005]}, struct.pack("<2I", 5003, 5005), struct.pack("<2I", 5003, 5006)),
    ({}, b"\xff\x3f\x00\x00", b"\xff\x7f\x00\x00"),
])
def test_kept_tokens_that_there_are_not_are_an_error(
    controls: dict[str, Any], said: bytes, lie: bytes, logitd_server: logitd.Server
) -> None:
    x = np.zeros(5006, np.float32)
    for told, is_true in [(said, True), (lie, False)]:
        liar = Liar(logitd_server.address, said, told)
        client = logitd.Client(liar.target, plane="inline", timeout=60)
        if is_true:
            assert_same_bits(client.sample(x, seed=7, return_kept=True, **controls),
                             logitd.sample(x, seed=7, return_kept=True, **controls))
        else:
            with pytest.raises(RuntimeError, match="the server's answer has .* tokens that there are not"):
                client.sample(x, seed=7, return_kept=True, **controls)
        assert liar.lies == 1
        liar.listener.close()


def test_threads_share_a_client(client: logitd.Client) -> None:
    expected = logitd.sample(X, **RULES)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                assert_same_bits(client.sample(X, **RULES), expected)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_a_server_says_what_it_is(client: logitd.Client) -> None:
    info = client.info()
    assert info["version"] == logitd.__version__ and info["devices"] == ["cpu"]
    assert "PLANE_SHARED_MEMORY" in info["planes"] and info["shm_control"].startswith("unix:")


def test_a_batch_beyond_a_limit_is_refused_by_its_name_and_fits_in_chunks() -> None:
    with logitd.Server("cpu", "--request-rows-max=2") as server:
        with pytest.raises(errors.Error, match="--request-rows-max") as raised:
            logitd.Client(server.target, plane="inline").sample(X)
        assert raised.value.code == "OutOfRange" and raised.value.retry_after is None
        chunked = logitd.Client(server.target, plane="chunked").sample(X, **RULES)
        assert_same_bits(chunked, logitd.sample(X, **RULES))


@pytest.mark.parametrize("plane", ["inline", "shared_memory", "direct"])
def test_an_overloaded_server_says_when_to_come_again_and_the_client_does(plane: Any) -> None:
    # A race of many draws takes long enough for all others to find no room.
    rules = {"draw_rule": "race", "draws": 1000, "seed": 1}
    expected = logitd.sample(X[0], **rules)

    def at_once(retries_max: int) -> list[logitd.Results | errors.Error]:
        clients = [logitd.Client(server.target, plane=plane, retries_max=retries_max) for _ in range(6)]
        together = threading.Barrier(len(clients))
        found: list[logitd.Results | errors.Error] = []

        def call(client: logitd.Client) -> None:
            together.wait()
            try:
                found.append(client.sample(X[0], **rules))
            except errors.Error as error:
                found.append(error)

        threads = [threading.Thread(target=call, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    with logitd.Server("cpu", "--queue-rows-max=1", "--request-rows-max=1") as server:
        refused = [error for error in at_once(0) if isinstance(error, errors.Error)]
        print(f"{len(refused)} of 6 refused")
        assert refused and all(isinstance(error, errors.ResourceExhausted) for error in refused), refused
        assert all(error.retry_after is not None and error.retry_after > 0 for error in refused)
        for results in at_once(10_000):
            assert isinstance(results, logitd.Results), results
            assert_same_bits(results, expected)


def test_a_server_that_is_gone_is_unavailable_and_one_that_is_back_is_found() -> None:
    server = logitd.Server()
    with server:
        client = logitd.Client(server.target)
        client.sample(X)
    with pytest.raises(errors.Unavailable) as raised:
        client.sample(X)
    assert isinstance(raised.value, ConnectionError)
    with pytest.raises(errors.Unavailable, match="cannot connect"):
        logitd.Client(server.target)


def test_a_call_has_a_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(errors.DeadlineExceeded) as raised:
            logitd.Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
    assert isinstance(raised.value, TimeoutError)


@pytest.mark.parametrize("plane", ["inline", "shared_memory", "direct"])
def test_a_handler_of_a_signal_may_make_calls(plane: Any) -> None:
    found: list[logitd.Results] = []
    with logitd.Server("reference") as server:
        client = logitd.Client(server.target, plane=plane)
        before = signal.signal(signal.SIGALRM, lambda *_: found.append(client.sample(X[0], seed=7)))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            # Most of a second for the slowest sampler there is.
            client.sample(X[:3], draw_rule="race", draws=1000, seed=1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert_same_bits(found[0], logitd.sample(X[0], seed=7))


@pytest.mark.parametrize("flag", ["--shm-connections-per-peer-max=1", "--shm-regions-per-peer-max=1"])
def test_where_memory_cannot_be_shared_bytes_are_sent(flag: str) -> None:
    expected = logitd.sample(X, **RULES)
    with logitd.Server("cpu", flag) as server:
        # Whoever comes first has all there is for this process.
        client, late = logitd.Client(server.target), logitd.Client(server.target)
        with client.staging((6, 5000), "f16") as buf:
            buf.array[:] = X
            for _ in range(2):
                assert_same_bits(client.sample(buf, **RULES), expected)
                assert_same_bits(late.sample(X, **RULES), expected)
            part = buf.array[::2, :4096]
            assert_same_bits(client.sample(part, seed=[1, 2, 3]), logitd.sample(part.copy(), seed=[1, 2, 3]))
            # What is asked for by name is not replaced.
            with pytest.raises(errors.Unavailable, match=flag.split("=")[0]):
                logitd.Client(server.target, plane="direct").sample(X)


def test_tokens(tmp_path: pathlib.Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("correct-horse-battery-staple somebody\n")
    tokens.chmod(0o600)
    with logitd.Server("cpu", f"--tokens-file={tokens}") as server:
        with pytest.raises(errors.Unauthenticated) as raised:
            logitd.Client(server.target)
        assert isinstance(raised.value, PermissionError)
        for plane in PLANES:
            client = logitd.Client(server.target, plane=plane, token="correct-horse-battery-staple")
            assert_same_bits(client.sample(X, **RULES), logitd.sample(X, **RULES))


def test_tls(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    own, client = authority.issue_cert("localhost"), authority.issue_cert("somebody@example.org")
    files = {"cert": own.cert_chain_pems[0], "key": own.private_key_pem, "client-ca": authority.cert_pem}
    for name, pem in files.items():
        pem.write_to_path(str(tmp_path / name))
        (tmp_path / name).chmod(0o600)
    flags = [f"--tls-{name}={tmp_path / name}" for name in files]
    with logitd.Server("cpu", *flags) as server:
        target = server.address.replace("http:", "https:")
        tls = {"tls_roots": authority.cert_pem.bytes(), "tls_domain": "localhost"}
        identity = (client.cert_chain_pems[0].bytes(), client.private_key_pem.bytes())
        results = logitd.Client(target, tls_identity=identity, **tls).sample(X, **RULES)
        assert_same_bits(results, logitd.sample(X, **RULES))
        for wrong in [tls, tls | {"tls_identity": identity, "tls_domain": "elsewhere"}]:
            with pytest.raises(errors.Unavailable):
                logitd.Client(target, **wrong).sample(X, **RULES)
        with pytest.raises(ValueError, match="https needs certificates"):
            logitd.Client(target)


def test_what_is_no_target_is_told_what_is() -> None:
    with pytest.raises(ValueError, match="write http://HOST:PORT"):
        logitd.Client("ftp://host:1")
    with pytest.raises(ValueError, match="plane is pigeon; allowed: auto, inline, chunked"):
        logitd.Client("unix:/tmp/x", plane="pigeon")
    with pytest.raises(ValueError, match="timeout is -1; allowed: seconds above 0"):
        logitd.Client("unix:/tmp/x", timeout=-1)
    with pytest.raises(RuntimeError, match="did not start(.|\n)*--no-such-flag"):
        with logitd.Server("cpu", "--no-such-flag"):
            pass
    with pytest.raises(FileNotFoundError):
        with logitd.Server(binary="/no/such/logitd"):
            pass


def test_variables_of_this_process_do_not_silence_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_LOG", "error")
    with logitd.Server("cpu") as server:
        # Its address is in a line that is no error.
        assert_same_bits(logitd.Client(server.address, timeout=60).sample(X, **RULES), logitd.sample(X, **RULES))


def test_results_that_differ_are_named_by_the_first_row() -> None:
    a = logitd.sample(X, temperature=0)
    b = logitd.sample(X, temperature=0, banned_ids=[None, None, [int(a.tokens[2])], None, [int(a.tokens[4])], None])
    assert_same_bits(a, a)
    with pytest.raises(AssertionError, match=r"row 2 differs \(and 1 more\): OK, draws \[\d+\]; OK, draws \[\d+\]"):
        assert_same_bits(a, b)
    with pytest.raises(AssertionError, match="6 rows are not 5 rows"):
        assert_same_bits(a, logitd.sample(X[:5]))
