"""Private agents of Consul, from the folder that .ci/consul fills, and a double of them."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.servers._node import Node
from tests.servers._ports import HOST, free_ports
from tests.servers._processes import Process, Processes

FOLDER = Path(__file__).parent.parent.parent / ".servers" / "consul"
PROGRAM = FOLDER / "root" / "usr" / "bin" / "consul"
DOUBLE = Path(__file__).with_name("_consul_double.py")
ANSWER = 5.0  # seconds


def missing() -> str:
    """Return what is to be done before an agent can start here, or an empty string."""
    if (FOLDER / "complete").exists():
        return ""
    return "Consul is not here: `.ci/consul` fetches it, from Debian, into .servers"


class Consul(Node):
    """An agent that keeps what it is told in memory: started again, it has forgotten it.

    :param token: without which it refuses everything.
    """

    name = "Consul"

    def __init__(self, token: str = "") -> None:
        super().__init__()
        self.token = token
        self.port = 0
        self._others: list[int] = []

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def ask(self, path: str, verb: str = "GET", body: Any = None) -> Any:
        """Return what it answers, decoded."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Consul-Token": self.token} if self.token else {}
        url = f"{self.url}{path}"
        request = urllib.request.Request(url, data, headers, method=verb)  # noqa: S310 - http
        with urllib.request.urlopen(request, timeout=ANSWER) as answer:  # noqa: S310 - http
            return json.loads(answer.read() or b"null")

    def entries(self, component: str) -> list[Any]:
        """Return all entries of a component, also those whose checks do not pass."""
        found: list[Any] = self.ask(f"/v1/health/service/{component}")
        return found

    def _prepare(self, folder: Path) -> None:
        self.port, *self._others = free_ports(3)

    def _launch(self, processes: Processes) -> Process:
        serf, rpc = self._others
        options = {
            "bind": HOST,
            "client": HOST,
            "http-port": self.port,
            "dns-port": -1,
            "grpc-port": -1,
            "serf-lan-port": serf,
            "serf-wan-port": -1,
            "server-port": rpc,
            "node": "tests",
            "log-level": "warn",
        }
        given = [f"-{name}={value}" for name, value in options.items()]
        if self.token:
            tokens = f'tokens {{ master = "{self.token}", agent = "{self.token}" }}'
            given.append(f'-hcl=acl {{ enabled = true, default_policy = "deny", {tokens} }}')
        return processes.start([PROGRAM, "agent", "-dev", "-disable-host-node-id", *given], {}, self.log)

    def _answers(self) -> bool:
        return bool(self.ask("/v1/status/leader")) and self.ask("/v1/catalog/services") is not None


class ConsulDouble(Consul):
    """What stands for an agent where there is none."""

    name = "the double of Consul"

    def _launch(self, processes: Processes) -> Process:
        return processes.start([sys.executable, "-I", DOUBLE, str(self.port), self.token], {}, self.log)
