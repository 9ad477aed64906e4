"""gRPC's own Python client: every method, rich errors, deadlines, health, reflection, TLS, tokens."""

import array
import math
import pathlib
import tempfile
import time
import unittest
import urllib.request

import grpc
import trustme
from google.protobuf import descriptor_pool, json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from logitd.v1 import sampler_pb2 as pb
from logitd.v1 import sampler_pb2_grpc

import vectors
from daemon import Daemon

SERVICE = "logitd.v1.SamplerService"
TIMEOUT_S = 60


def request_for(question: vectors.Question) -> pb.SampleRequest:
    return pb.SampleRequest(
        dtype=f"DTYPE_{question.dtype.upper()}",
        vocab_size=question.vocab_size,
        logits=question.logits,
        params=[pb.SamplingParams(**params) for params in question.params],
    )


def details(error: grpc.RpcError, kind):
    """The one detail of this kind that an error carries."""
    found = []
    for detail in rpc_status.from_call(error).details:
        if detail.Is(kind.DESCRIPTOR):
            found.append(kind())
            detail.Unpack(found[-1])
    assert len(found) == 1, f"{len(found)} {kind.__name__} in {error}"
    return found[0]


def least_us(work, times=20) -> float:
    """The shortest of so many runs, in microseconds."""
    def run():
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    return min(run() for _ in range(times)) * 1e6


class WithServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="logitd-"))
        cls.socket = f"{folder}/logitd.sock"
        cls.daemon = cls.enterClassContext(Daemon(f"--listen=unix:{cls.socket}"))
        cls.channel = cls.enterClassContext(grpc.insecure_channel(cls.daemon.host))
        cls.stub = sampler_pb2_grpc.SamplerServiceStub(cls.channel)
        cls.questions = vectors.questions()

    def check(self, question: vectors.Question, response: pb.SampleResponse):
        for params, expected, result in zip(question.params, question.results, response.rows, strict=True):
            expected = expected if expected["status"] == "OK" else {"status": expected["status"]}
            self.assertEqual(vectors.plain(result), expected, f"{question.name} under {params}")
            self.assertEqual(result.seed, params["seed"])


class Sampling(WithServer):
    def test_unary_gives_the_known_answers(self):
        for question in self.questions:
            self.check(question, self.stub.Sample(request_for(question), timeout=TIMEOUT_S))

    def test_a_unix_socket_gives_the_known_answers(self):
        # gRPC's C core sends the socket's path as the authority, percent-encoded.
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            stub = sampler_pb2_grpc.SamplerServiceStub(channel)
            for question in self.questions[:8]:
                self.check(question, stub.Sample(request_for(question), timeout=TIMEOUT_S))

    def test_a_stream_answers_every_id(self):
        requests = (pb.SampleStreamRequest(id=7000 + i, request=request_for(question))
                    for i, question in enumerate(self.questions))
        answered = set()
        for answer in self.stub.SampleStream(requests, timeout=TIMEOUT_S):
            self.assertEqual(answer.WhichOneof("result"), "response", answer)
            self.check(self.questions[answer.id - 7000], answer.response)
            answered.add(answer.id)
        self.assertEqual(answered, set(range(7000, 7000 + len(self.questions))))

    def test_a_refused_request_leaves_the_stream_alive(self):
        good = request_for(self.questions[0])
        bad = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=2, logits=b"\0" * 4,
                               params=[pb.SamplingParams(top_p=-1.0)])
        answers = {answer.id: answer for answer in self.stub.SampleStream(
            iter(pb.SampleStreamRequest(id=i, request=r) for i, r in enumerate([good, bad, good])),
            timeout=TIMEOUT_S)}
        self.assertEqual(sorted(answers), [0, 1, 2])
        self.check(self.questions[0], answers[2].response)
        self.assertEqual(answers[1].error.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        self.assertIn("top_p", answers[1].error.message)
        self.assertTrue(answers[1].error.status_details)

    def test_a_seed_left_out_is_returned_and_replays(self):
        request = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=1000, logits=b"\0" * 2000,
                                   params=[pb.SamplingParams(draws=64)])
        first = self.stub.Sample(request, timeout=TIMEOUT_S).rows[0]
        self.assertGreater(len({draw.token for draw in first.draws}), 8)
        request.params[0].seed = first.seed
        self.assertEqual(self.stub.Sample(request, timeout=TIMEOUT_S).rows[0], first)

    def test_columns_say_what_messages_say(self):
        rows, vocab_size = 1024, 64
        seeds, temperatures = list(range(rows)), [0.5 + row / rows for row in range(rows)]
        fixed = dict(dtype="DTYPE_F16", vocab_size=vocab_size,
                     logits=array.array("H", ((37 * i) % 911 + 0x3000 for i in range(rows * vocab_size))).tobytes())

        def messages():
            return pb.SampleRequest(**fixed, params=[
                pb.SamplingParams(temperature=temperature, top_k=40, top_p=0.95, seed=seed, position=7)
                for temperature, seed in zip(temperatures, seeds)])

        def columns():
            return pb.SampleRequest(**fixed, return_columns=True, columns=pb.ParamColumns(
                temperature=temperatures, top_k=[40], top_p=[0.95], seed=seeds, position=[7]))

        def of_messages(response):
            return [(row.token if row.HasField("token") else -1, row.logprob, row.status, row.seed) for row in response.rows]

        def of_columns(response):
            found = response.columns
            return list(zip(found.tokens, found.logprobs, found.statuses, found.seeds, strict=True))

        answers = []
        for name, build, read in [("messages", messages, of_messages), ("columns", columns, of_columns)]:
            building = least_us(lambda: build().SerializeToString())
            response = self.stub.Sample(build(), timeout=TIMEOUT_S)
            encoded = response.SerializeToString()
            decoding = least_us(lambda: read(pb.SampleResponse.FromString(encoded)))
            print(f"{rows} rows as {name}: building {building:.0f} us, decoding {decoding:.0f} us, {len(encoded)} bytes")
            answers.append(read(response))
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(len(answers[1]), rows)

    def test_a_row_without_a_token_is_no_token_0_in_columns(self):
        # 1, NaN as f16, and two draws.
        request = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=1, logits=bytes.fromhex("003c 007e"), return_columns=True,
                                   columns=pb.ParamColumns(draws=[2]))
        response = self.stub.Sample(request, timeout=TIMEOUT_S)
        found = response.columns
        self.assertEqual((list(found.tokens), list(found.draw_tokens), len(response.rows)), ([0, -1], [0, 0, -1, -1], 0))
        self.assertEqual(list(found.statuses), [pb.ROW_STATUS_OK, pb.ROW_STATUS_NAN])
        request.columns.top_p.extend([0.5, 2.0])
        with self.assertRaises(grpc.RpcError) as raised:
            self.stub.Sample(request, timeout=TIMEOUT_S)
        violations = details(raised.exception, error_details_pb2.BadRequest).field_violations
        self.assertEqual([violation.field for violation in violations], ["columns.top_p[1]"])

    def test_logprobs_are_columns_of_equal_length(self):
        # 0.5, 2, 1 and 1.75 as f16.
        logits = bytes.fromhex("0038 0040 003c 003f")
        asked = pb.Logprobs(of=[pb.LOGPROBS_OF_SAMPLED, pb.LOGPROBS_OF_RAW], top=3, ids=[0])
        request = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=4, logits=logits, params=[
            pb.SamplingParams(top_k=2, seed=1, draws=2, logprobs=asked, return_kept=True)])
        row = self.stub.Sample(request, timeout=TIMEOUT_S).rows[0]
        self.assertEqual(list(row.kept_ids), [1, 3])
        raw, sampled = row.logprobs
        self.assertEqual((raw.of, sampled.of), (pb.LOGPROBS_OF_RAW, pb.LOGPROBS_OF_SAMPLED))
        exact = [math.exp(x) for x in [2.0, 1.75, 1.0]]
        total = sum(exact) + math.exp(0.5)
        self.assertEqual((list(raw.top.tokens), list(raw.top.ranks)), ([1, 3, 2], [1, 2, 3]))
        for logprob, mass in zip(raw.top.logprobs, exact, strict=True):
            self.assertAlmostEqual(logprob, math.log(mass / total), places=5)
        self.assertEqual((list(raw.ids.tokens), list(raw.ids.ranks)), ([0], [4]))
        # Two tokens were kept, and token 0 is none of them.
        self.assertEqual(list(sampled.top.tokens), [1, 3])
        self.assertEqual((list(sampled.ids.ranks), list(sampled.ids.logprobs)), ([0], [-math.inf]))
        self.assertEqual(list(sampled.drawn.tokens), [draw.token for draw in row.draws])
        self.assertEqual(list(sampled.drawn.logprobs), [draw.logprob for draw in row.draws])

    def test_drafts_are_verified_token_by_token(self):
        logits = array.array("f", [0.5, 2.0, 1.0, 1.75]).tobytes()
        params = pb.SamplingParams(temperature=0.7, top_k=3, seed=7)
        sampled = [self.stub.Sample(pb.SampleRequest(dtype="DTYPE_F32", vocab_size=4, logits=logits, params=[
            pb.SamplingParams(temperature=0.7, top_k=3, seed=7, position=position)])).rows[0] for position in range(3)]
        tokens = [row.token for row in sampled]
        for right in range(3):
            drafts = tokens[:right] + [(tokens[right] + 1) % 4] * (2 - right)
            sequence = pb.DraftedSequence(drafts=drafts, rows=3, params=params)
            request = pb.VerifyRequest(dtype="DTYPE_F32", vocab_size=4, logits=logits * 3, sequences=[sequence])
            streamed, = self.stub.VerifyStream(iter([pb.VerifyStreamRequest(id=9, request=request)]))
            for response in [self.stub.Verify(request), streamed.response]:
                verified, = response.sequences
                self.assertEqual((verified.accepted, list(verified.tokens)), (right, tokens[:right + 1]))
                self.assertEqual(list(verified.logprobs), [row.logprob for row in sampled[:right + 1]])

    def test_a_step_of_beams_scores_what_logprobs_say(self):
        logits = array.array("f", [0.5, 2.0, 1.0, 1.75]).tobytes()
        group = pb.BeamGroup(scores=[0], beams=2, eos_ids=[3])
        request = pb.BeamStepRequest(dtype="DTYPE_F32", vocab_size=4, logits=logits, groups=[group])
        result, = self.stub.BeamStep(request).groups
        self.assertEqual((list(result.running.tokens), list(result.finished.tokens)), ([1, 2], [3]))
        total = math.log(sum(math.exp(x) for x in [0.5, 2.0, 1.0, 1.75]))
        for score, x in zip(result.candidates.scores, [2.0, 1.75, 1.0, 0.5], strict=True):
            self.assertAlmostEqual(score / 2**32, x - total, delta=1e-6)

    def test_the_response_says_where_it_was_computed(self):
        info = self.stub.GetInfo(pb.GetInfoRequest(), timeout=TIMEOUT_S)
        response = self.stub.Sample(request_for(self.questions[0]), timeout=TIMEOUT_S)
        self.assertIn(response.device, [device.id for device in info.devices])
        self.assertEqual(response.arithmetic_version, info.arithmetic_version)
        self.assertEqual(response.plane, pb.PLANE_INLINE)


class Errors(WithServer):
    def refused(self, request: pb.SampleRequest, **options) -> grpc.RpcError:
        with self.assertRaises(grpc.RpcError) as caught:
            self.stub.Sample(request, **{"timeout": TIMEOUT_S, **options})
        return caught.exception

    def test_every_wrong_parameter_is_named_with_its_row_value_and_range(self):
        error = self.refused(pb.SampleRequest(
            dtype="DTYPE_F16", vocab_size=2, logits=b"\0" * 8,
            params=[pb.SamplingParams(), pb.SamplingParams(temperature=-1.5, top_p=float("nan"))]))
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        violations = {v.field: v.description
                      for v in details(error, error_details_pb2.BadRequest).field_violations}
        self.assertIn("-1.5", violations["params[1].temperature"])
        self.assertIn("10000", violations["params[1].temperature"])
        self.assertIn("params[1].temperature", error.details())

    def test_wrong_sizes_are_refused(self):
        for change, field in [({"logits": b"\0" * 7}, "logits"), ({"logits": b""}, "logits"),
                              ({"vocab_size": 0}, "vocab_size"), ({"vocab_size": 2**20 + 1}, "vocab_size"),
                              ({"dtype": 0}, "dtype"), ({"dtype": 9}, "dtype"),
                              ({"params": [pb.SamplingParams()] * 3}, "params")]:
            with self.subTest(change=change):
                request = {"dtype": 1, "vocab_size": 2, "logits": b"\0" * 8, **change}
                error = self.refused(pb.SampleRequest(**request))
                self.assertIn(error.code(), [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE])
                self.assertIn(field, error.details())

    def test_a_message_over_the_limit_names_the_limit(self):
        limits = self.stub.GetInfo(pb.GetInfoRequest(), timeout=TIMEOUT_S).limits
        vocab_size = 2**20
        rows = limits.message_bytes_max // (2 * vocab_size) + 1
        with grpc.insecure_channel(self.daemon.host,
                                   options=[("grpc.max_send_message_length", -1)]) as channel:
            with self.assertRaises(grpc.RpcError) as caught:
                sampler_pb2_grpc.SamplerServiceStub(channel).Sample(
                    pb.SampleRequest(dtype="DTYPE_F16", vocab_size=vocab_size,
                                     logits=bytes(2 * vocab_size * rows)), timeout=TIMEOUT_S)
        error = caught.exception
        self.assertIn(error.code(), [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE])
        self.assertIn("--message-bytes-max", error.details())

    def test_a_deadline_that_cannot_be_met_is_exceeded(self):
        # 16 rows of 2^18 tokens with 1,024 draws each take far longer than a microsecond.
        request = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=2**18, logits=bytes(2**19 * 16),
                                   params=[pb.SamplingParams(draws=1024)])
        error = self.refused(request, timeout=1e-6)
        self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(len(self.stub.Sample(request, timeout=TIMEOUT_S).rows), 16)


class Around(WithServer):
    def test_info_is_enough_to_configure_a_client(self):
        info = self.stub.GetInfo(pb.GetInfoRequest(), timeout=TIMEOUT_S)
        self.assertRegex(info.version, r"^\d+\.\d+\.\d+")
        self.assertEqual(info.arithmetic_version, 2)
        self.assertTrue(any(device.up for device in info.devices))
        self.assertIn(pb.PLANE_INLINE, info.planes)
        limits = json_format.MessageToDict(info.limits, preserving_proto_field_name=True)
        for field in pb.Limits.DESCRIPTOR.fields:
            self.assertGreater(int(limits.get(field.name, 0)), 0, field.name)

    def test_health_of_the_server_and_the_service(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        for service in ["", SERVICE]:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING, service)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT_S)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_reflection_describes_what_the_stubs_were_made_from(self):
        database = ProtoReflectionDescriptorDatabase(self.channel)
        self.assertIn(SERVICE, database.get_services())
        pool = descriptor_pool.DescriptorPool(database)
        served = pool.FindServiceByName(SERVICE)
        known = pb.DESCRIPTOR.services_by_name["SamplerService"]
        self.assertEqual([method.name for method in served.methods], [m.name for m in known.methods])
        fields = lambda message: [(f.name, f.number, f.type) for f in message.fields]
        for name, message in pb.DESCRIPTOR.message_types_by_name.items():
            self.assertEqual(fields(pool.FindMessageTypeByName(f"logitd.v1.{name}")), fields(message))

    def test_metrics_count_what_was_sampled(self):
        rows = lambda: sum(
            float(line.rsplit(" ", 1)[1])
            for line in urllib.request.urlopen(self.daemon.metrics, timeout=TIMEOUT_S).read().decode().splitlines()
            if line.startswith("logitd_rows_total{"))
        before = rows()
        question = self.questions[0]
        self.stub.Sample(request_for(question), timeout=TIMEOUT_S)
        self.assertEqual(rows() - before, len(question.params))


class Doors(unittest.TestCase):
    def test_tls_and_a_token_together(self):
        authority = trustme.CA()
        with tempfile.TemporaryDirectory(prefix="logitd-") as name:
            folder = pathlib.Path(name)
            certificate = authority.issue_cert("localhost", "127.0.0.1")
            certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
            certificate.private_key_pem.write_to_path(folder / "key.pem")
            (folder / "tokens").write_text("correct-horse-battery tests\n")
            with Daemon(f"--tls-cert={folder / 'cert.pem'}", f"--tls-key={folder / 'key.pem'}",
                        f"--tokens-file={folder / 'tokens'}") as daemon:
                self.check_doors(daemon, authority)

    def check_doors(self, daemon: Daemon, authority: trustme.CA):
        trust = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        question = vectors.questions()[0]
        with grpc.secure_channel(daemon.host, trust) as channel:
            stub = sampler_pb2_grpc.SamplerServiceStub(channel)
            for metadata in [None, [("authorization", "Bearer wrong")]]:
                with self.assertRaises(grpc.RpcError) as caught:
                    stub.Sample(request_for(question), timeout=TIMEOUT_S, metadata=metadata)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
            response = stub.Sample(request_for(question), timeout=TIMEOUT_S,
                                   metadata=[("authorization", "Bearer correct-horse-battery")])
            self.assertEqual(len(response.rows), len(question.params))
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            self.assertEqual(health.status, health_pb2.HealthCheckResponse.SERVING)
        with grpc.insecure_channel(daemon.host) as channel:
            with self.assertRaises(grpc.RpcError) as caught:
                sampler_pb2_grpc.SamplerServiceStub(channel).GetInfo(pb.GetInfoRequest(), timeout=5)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
