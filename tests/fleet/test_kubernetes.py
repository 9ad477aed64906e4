"""Manifests: kubectl puts them together, the schemas of Kubernetes allow them, and they agree with the files beside them."""

import pathlib
import re
import socket
import struct
import subprocess
import tempfile
import unittest

import kubernetes_validate
import yaml

from deployed import DEPLOY
from names import Names
from proxy import SHIPPED, Proxy, config
from trouble import PREFACE, SETTINGS, frame

SERVICE = "logitd.v1.SamplerService"
SETTINGS_MAX_FRAME_SIZE = 5


def built(overlay: str) -> dict[tuple[str, str], dict]:
    """The objects of an overlay by kind and name, as kubectl would apply them."""
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY / "kubernetes" / overlay)], check=True,
                          capture_output=True, text=True, timeout=60)
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}


def container(objects: dict, deployment: str) -> dict:
    only, = objects["Deployment", deployment]["spec"]["template"]["spec"]["containers"]
    return only


def seconds(text: str) -> float:
    return float(re.fullmatch(r"([\d.]+)s", text)[1])


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base, cls.gpu = built("base"), built("gpu")

    def test_the_schemas_allow_them(self):
        version = kubernetes_validate.latest_version()
        for objects in (self.base, self.gpu):
            self.assertEqual(len(objects), 11)
            for each in objects.values():
                kubernetes_validate.validate(each, version, strict=True)

    def test_a_wrong_one_would_be_noticed(self):
        wrong = yaml.safe_load(yaml.safe_dump(self.base["Deployment", "logitd"]))
        wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)

    def test_settings_are_the_files(self):
        for name, file in (("logitd", DEPLOY / "kubernetes" / "base" / "logitd.toml"), ("envoy", DEPLOY / "envoy" / "envoy.yaml")):
            settings, = (each for (kind, full), each in self.base.items() if kind == "ConfigMap" and full.startswith(name + "-"))
            self.assertEqual(settings["data"], {file.name: file.read_text()})
            deployment = {"logitd": "logitd", "envoy": "logitd-envoy"}[name]
            volume, = self.base["Deployment", deployment]["spec"]["template"]["spec"]["volumes"]
            self.assertEqual(volume["configMap"]["name"], settings["metadata"]["name"])

    def test_names_and_ports_meet(self):
        toml = (DEPLOY / "kubernetes" / "base" / "logitd.toml").read_text()
        ports = {port["name"]: port["containerPort"] for port in container(self.base, "logitd")["ports"]}
        self.assertIn(f'listen = ["0.0.0.0:{ports["grpc"]}"]', toml)
        self.assertIn(f'metrics_listen = "0.0.0.0:{ports["metrics"]}"', toml)
        cluster, = SHIPPED["static_resources"]["clusters"]
        endpoint, = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        self.assertIn(("Service", address["address"]), self.base)
        self.assertEqual(address["port_value"], ports["grpc"])
        listener, = SHIPPED["static_resources"]["listeners"]
        front, = container(self.base, "logitd-envoy")["ports"]
        self.assertEqual(listener["address"]["socket_address"]["port_value"], front["containerPort"])
        scraped, = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        self.assertEqual(scraped["dns_sd_configs"][0]["names"], [address["address"]])
        self.assertEqual(scraped["dns_sd_configs"][0]["port"], ports["metrics"])
        for kind in ("Deployment", "Service", "PodDisruptionBudget"):
            for name in ("logitd", "logitd-envoy"):
                spec = self.base[kind, name]["spec"]
                selector = spec["selector"].get("matchLabels", spec["selector"])
                self.assertEqual(selector, {"app.kubernetes.io/name": name})
                labels = self.base["Deployment", name]["spec"]["template"]["metadata"]["labels"]
                self.assertEqual(labels, selector)

    def test_probes_ask_for_the_service_that_envoy_asks_for(self):
        check, = SHIPPED["static_resources"]["clusters"][0]["health_checks"]
        self.assertEqual(check["grpc_health_check"]["service_name"], SERVICE)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(container(self.base, "logitd")[probe]["grpc"], {"port": 50051, "service": SERVICE})

    def test_there_is_time_to_drain(self):
        toml = (DEPLOY / "kubernetes" / "base" / "logitd.toml").read_text()
        drain = {key: seconds(value) for key, value in re.findall(r'^(drain_\w+) = "(.*)"$', toml, re.M)}
        grace = self.base["Deployment", "logitd"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        self.assertEqual(set(drain), {"drain_delay", "drain_timeout", "drain_grace"})
        self.assertGreater(grace, sum(drain.values()))
        check, = SHIPPED["static_resources"]["clusters"][0]["health_checks"]
        self.assertGreater(drain["drain_delay"], seconds(check["interval"]) + seconds(check["timeout"]))
        self.assertGreater(drain["drain_delay"], seconds(check["no_traffic_interval"]) + seconds(check["timeout"]))

    def test_a_gpu_is_asked_for_and_needed(self):
        found = container(self.gpu, "logitd")
        self.assertEqual(found["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertEqual(found["args"][:2], container(self.base, "logitd")["args"])
        self.assertIn("--device=cuda", found["args"])
        self.assertIn("LOGITD_THREADS", [variable["name"] for variable in found["env"]])

    def test_envoy_takes_large_frames(self):
        with tempfile.TemporaryDirectory() as folder, Names() as names, \
                Proxy(config(1, names.port), pathlib.Path(folder)) as proxy:
            self.assertEqual(settings_of(proxy.host)[SETTINGS_MAX_FRAME_SIZE], 1 << 20)

    def test_envoy_says_goodbye(self):
        script = container(self.base, "logitd-envoy")["lifecycle"]["preStop"]["exec"]["command"]
        with tempfile.TemporaryDirectory() as folder, Names() as names, \
                Proxy(config(1, names.port), pathlib.Path(folder), "--drain-time-s", "1") as proxy:
            admin = proxy.admin.strip().rsplit(":", 1)[1]
            here = [part.replace("/9901", f"/{admin}").replace("sleep 12", "") for part in script]
            done = subprocess.run(here, capture_output=True, text=True, timeout=60)
            self.assertTrue(done.stdout.startswith("HTTP/1.1 200 OK"), done)
            self.assertTrue(proxy.wait("end of its listener", lambda: refuses(proxy.host)))
        command = container(self.base, "logitd-envoy")["command"]
        self.assertLess(int(command[command.index("--drain-time-s") + 1]), int(re.search(r"sleep (\d+)", script[-1])[1]))


def refuses(host: str) -> bool:
    """Whether it takes no connections."""
    address, port = host.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((address, int(port))) != 0


def settings_of(host: str) -> dict[int, int]:
    """What an HTTP/2 server says of itself in its first frame."""
    address, port = host.rsplit(":", 1)
    with socket.create_connection((address, int(port)), timeout=10) as connection, connection.makefile("rb") as answer:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        length, kind = struct.unpack("!IB5x", b"\0" + answer.read(9))
        assert kind == SETTINGS
        return dict(struct.iter_unpack("!HI", answer.read(length)))
