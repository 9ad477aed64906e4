"""A trace that `serve --record` wrote, read with nothing but trace.proto and what its comments say."""

import pathlib
import struct
import tempfile
import unittest
import zlib
from collections.abc import Iterator

import grpc
from logitd.trace.v1 import trace_pb2
from logitd.v1 import sampler_pb2 as pb
from logitd.v1 import sampler_pb2_grpc

from daemon import Daemon

MAGIC = b"logitd trace\0\0\0\x02"
TIMEOUT_S = 60
ROWS, VOCAB_SIZE = 3, 500


def frames(trace: bytes) -> Iterator[trace_pb2.Frame]:
    assert trace.startswith(MAGIC)
    at = len(MAGIC)
    while at < len(trace):
        length, checksum = struct.unpack_from("<II", trace, at)
        body = trace[at + 8:at + 8 + length]
        assert len(body) == length, "torn"
        assert checksum == zlib.crc32(trace[at:at + 4] + body)
        yield trace_pb2.Frame.FromString(body)
        at += 8 + length


def logits(record: trace_pb2.Record) -> bytes:
    if not record.planes:
        return record.request.logits
    whole = bytearray(record.unpacked_bytes)
    for index, plane in enumerate(record.planes):
        whole[index::len(record.planes)] = zlib.decompress(plane.bytes, -15) if plane.deflated else plane.bytes
    return bytes(whole)


class Trace(unittest.TestCase):
    def test_requests_and_answers_are_read_back(self):
        # High bytes of which few are frequent, low bytes that are anything: one plane is packed, the other is not.
        bits = [0x3C00 + 0x9E37 * i % 0x1FF for i in range(ROWS * VOCAB_SIZE)]
        asked = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=VOCAB_SIZE, logits=struct.pack(f"<{len(bits)}H", *bits))
        wrong = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=VOCAB_SIZE, logits=b"odd")
        with tempfile.TemporaryDirectory(prefix="logitd-") as folder:
            path = pathlib.Path(folder) / "a.trace"
            with Daemon(f"--record={path}") as daemon, grpc.insecure_channel(daemon.host) as channel:
                stub = sampler_pb2_grpc.SamplerServiceStub(channel)
                answer = stub.Sample(asked, timeout=TIMEOUT_S)
                with self.assertRaises(grpc.RpcError):
                    stub.Sample(wrong, timeout=TIMEOUT_S)
            contents = list(frames(path.read_bytes()))
        self.assertEqual(contents[0].WhichOneof("content"), "session")
        self.assertGreater(contents[0].session.started_unix_us, 1_700_000_000_000_000)
        answered, refused = [frame.record for frame in contents[1:]]
        self.assertEqual([plane.deflated for plane in answered.planes], [False, True])
        self.assertEqual(logits(answered), asked.logits)
        self.assertEqual([row.token for row in answered.response.rows], [row.token for row in answer.rows])
        self.assertEqual([row.seed for row in answered.response.rows], [row.seed for row in answer.rows])
        self.assertEqual(refused.request.logits, b"odd")
        self.assertEqual(refused.error.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])


if __name__ == "__main__":
    unittest.main()
