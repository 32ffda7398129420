"""A double of a Consul agent, as far as the registry asks it; ``python _consul_double.py PORT TOKEN``.

What it does was measured on Consul 1.8.7, and the tests of the registry run on both.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SECOND = 1e9
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def seconds(text: str) -> float:
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m)", text))


class State:
    """What was registered, and when it changed."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.index = 10
        self.services: dict[str, dict[str, Any]] = {}
        self.checks: dict[str, dict[str, Any]] = {}

    def touch(self) -> None:
        self.index += 1
        self.changed.notify_all()

    def register(self, body: dict[str, Any]) -> None:
        known_as = body["ID"]
        self.services[known_as] = {
            "ID": known_as,
            "Service": body["Name"],
            "Tags": body.get("Tags") or [],
            "Address": body.get("Address", ""),
            "Port": body.get("Port", 0),
            "Meta": body.get("Meta") or {},
        }
        # A check that is there already stays, of whatever kind it is.
        if body.get("Check") and f"service:{known_as}" not in self.checks:
            check = dict(body["Check"])
            now = time.monotonic()
            self.checks[f"service:{known_as}"] = {
                "status": check.get("Status") or "critical",
                "output": "",
                "check": check,
                "told": now,
                "next": now,
            }
        self.touch()

    def deregister(self, known_as: str) -> bool:
        if known_as not in self.services:
            return False
        del self.services[known_as]
        self.checks.pop(f"service:{known_as}", None)
        self.touch()
        return True

    def set(self, check: dict[str, Any], status: str, output: str) -> None:
        check["told"] = time.monotonic()
        if (check["status"], check["output"]) != (status, output):
            check["status"], check["output"] = status, output
            self.touch()

    def health(self, name: str, *, passing: bool) -> list[dict[str, Any]]:
        found = []
        for known_as, service in self.services.items():
            if service["Service"] != name:
                continue
            check = self.checks.get(f"service:{known_as}")
            status = "passing" if check is None else check["status"]
            if passing and status != "passing":
                continue
            output = "" if check is None else check["output"]
            checks = [{"CheckID": f"service:{known_as}", "Status": status, "Output": output}]
            found.append({"Node": {"Address": "127.0.0.1"}, "Service": service, "Checks": checks})
        return found

    def look(self) -> None:
        """Have checks made, and those that lapsed be critical."""
        while True:
            now, due = time.monotonic(), []
            with self.changed:
                for check in list(self.checks.values()):
                    said = check["check"]
                    if "TTL" in said and now - check["told"] > seconds(said["TTL"]):
                        self.set(check, "critical", "TTL expired")
                    elif "HTTP" in said and now >= check["next"]:
                        check["next"] = now + seconds(said["Interval"])
                        due.append(check)
            for check in due:
                threading.Thread(target=self.visit, args=(check,), daemon=True).start()
            time.sleep(0.02)

    def visit(self, check: dict[str, Any]) -> None:
        said = check["check"]
        try:
            with urllib.request.urlopen(said["HTTP"], timeout=seconds(said["Timeout"])) as answer:  # noqa: S310
                code = answer.status
        except urllib.error.HTTPError as exc:
            code = exc.code
        except OSError:
            code = 0
        status = "passing" if 200 <= code < 300 else "warning" if code == 429 else "critical"
        with self.changed:
            self.set(check, status, f"HTTP GET {said['HTTP']}: {code}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State
    token: str

    def log_message(self, *given: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        state = self.state
        with state.changed:
            if not self.allowed() and path != "/v1/status/leader":
                self.tell(403, "Permission denied")
            elif path == "/v1/status/leader":
                self.tell(200, "127.0.0.1:1")
            elif path == "/v1/catalog/services":
                names: dict[str, list[str]] = {"consul": []}
                for service in state.services.values():
                    names.setdefault(service["Service"], []).extend(service["Tags"])
                self.tell(200, names)
            elif path == "/v1/agent/checks":
                checks = state.checks.items()
                self.tell(
                    200, {known: {"Status": one["status"], "Output": one["output"]} for known, one in checks}
                )
            elif path.startswith("/v1/agent/service/"):
                known_as = path.removeprefix("/v1/agent/service/")
                if known_as in state.services:
                    self.tell(200, state.services[known_as])
                else:
                    self.tell(404, f"unknown service ID: {known_as}")
            elif path.startswith("/v1/health/service/"):
                self.wait(int(query.get("index", ["0"])[0]), seconds(query.get("wait", ["300s"])[0]))
                name = path.removeprefix("/v1/health/service/")
                self.tell(200, state.health(name, passing="passing" in query))
            else:
                self.tell(404, "")

    def allowed(self) -> bool:
        return self.headers.get("X-Consul-Token", "") == self.token

    def wait(self, index: int, most: float) -> None:
        """Wait for a change after an index; 0 does not wait, and neither does one from the future."""
        if 0 < index == self.state.index:
            self.state.changed.wait_for(lambda: self.state.index != index, most)

    def do_PUT(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        state = self.state
        with state.changed:
            if not self.allowed():
                self.tell(403, "Permission denied")
            elif path == "/v1/agent/service/register":
                state.register(json.loads(body))
                self.tell(200, None)
            elif path.startswith("/v1/agent/service/deregister/"):
                known = state.deregister(path.removeprefix("/v1/agent/service/deregister/"))
                self.tell(200 if known else 404, None if known else "Unknown service")
            elif path.startswith("/v1/agent/check/update/"):
                self.update(path.removeprefix("/v1/agent/check/update/"), json.loads(body))
            else:
                self.tell(404, "")

    def update(self, known_as: str, told: dict[str, Any]) -> None:
        check = self.state.checks.get(known_as)
        if check is None or "TTL" not in check["check"]:
            self.tell(500, f'CheckID "{known_as}" does not have associated TTL')
            return
        self.state.set(check, told["Status"], told.get("Output", ""))
        self.tell(200, None)

    def tell(self, status: int, value: Any) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("X-Consul-Index", str(self.state.index))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Handler.state, Handler.token = State(), sys.argv[2]
    threading.Thread(target=Handler.state.look, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()
