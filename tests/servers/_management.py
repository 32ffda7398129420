"""The management interface of RabbitMQ over HTTP: what the tests do to a broker from outside."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

LIMIT = 30.0  # seconds for one request
# Whatever proxy the environment names is for other hosts.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Management:
    """Needs `host`, `management_port`, `user` and `password` of the class that inherits it."""

    host: str
    management_port: int
    user: str
    password: str

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        missing_ok: bool = False,
    ) -> Any:
        """Send a request to ``/api/<path>`` and return the decoded answer; None for an empty one.

        Names inside `path` are to be quoted. With `missing_ok`, 404 gives None too. Raises `OSError` with the
        broker's reason for every other refusal.
        """
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host}:{self.management_port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Basic {login}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
        )
        try:
            with OPENER.open(request, timeout=LIMIT) as response:
                answer = response.read()
        except urllib.error.HTTPError as exc:
            with exc:
                reason = exc.read().decode(errors="replace")
            if missing_ok and exc.code == 404:
                return None
            raise OSError(f"{method} {path}: {exc.code} {reason}") from None
        return json.loads(answer) if answer else None

    def declare_queue(
        self,
        name: str,
        arguments: dict[str, object] | None = None,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        vhost: str = "/",
    ) -> None:
        """Declare a queue; ``{"x-queue-type": "quorum"}`` and the like are arguments."""
        body = {"durable": durable, "auto_delete": auto_delete, "arguments": arguments or {}}
        self.api("PUT", _path("queues", vhost, name), body)

    def delete_queue(self, name: str, *, vhost: str = "/") -> None:
        """Delete a queue with all that is in it, if there is one."""
        self.api("DELETE", _path("queues", vhost, name), missing_ok=True)

    def purge_queue(self, name: str, *, vhost: str = "/") -> None:
        self.api("DELETE", _path("queues", vhost, name) + "/contents")

    def declare_exchange(
        self,
        name: str,
        type: str = "direct",  # noqa: A002 - the broker's word
        arguments: dict[str, object] | None = None,
        *,
        durable: bool = True,
        vhost: str = "/",
    ) -> None:
        self.api(
            "PUT",
            _path("exchanges", vhost, name),
            {"type": type, "durable": durable, "arguments": arguments or {}},
        )

    def delete_exchange(self, name: str, *, vhost: str = "/") -> None:
        """Delete an exchange, if there is one."""
        self.api("DELETE", _path("exchanges", vhost, name), missing_ok=True)

    def bind(self, exchange: str, queue: str, routing_key: str = "", *, vhost: str = "/") -> None:
        path = f"bindings/{quote(vhost, safe='')}/e/{quote(exchange, safe='')}/q/{quote(queue, safe='')}"
        self.api("POST", path, {"routing_key": routing_key, "arguments": {}})

    def publish(
        self, routing_key: str, body: str, *, exchange: str = "amq.default", vhost: str = "/"
    ) -> bool:
        """Publish a text, persistent; return whether a queue took it."""
        message = {
            "properties": {"delivery_mode": 2},
            "routing_key": routing_key,
            "payload": body,
            "payload_encoding": "string",
        }
        return bool(self.api("POST", _path("exchanges", vhost, exchange) + "/publish", message)["routed"])

    def take(self, queue: str, count: int = 1000, *, vhost: str = "/") -> list[dict[str, Any]]:
        """Take messages off a queue, at most `count`, the oldest first.

        Each has `payload` (text), `properties` (with `headers`), `routing_key`, `exchange`, `redelivered`.
        """
        body = {"count": count, "ackmode": "ack_requeue_false", "encoding": "auto"}
        messages: list[dict[str, Any]] = self.api("POST", _path("queues", vhost, queue) + "/get", body)
        return messages

    def add_user(self, name: str, password: str, *, tags: str = "") -> None:
        """Add a user without any permission; an empty password: none logs in."""
        login = {"password": password} if password else {"password_hash": ""}
        self.api("PUT", f"users/{quote(name, safe='')}", {**login, "tags": tags})

    def delete_user(self, name: str) -> None:
        self.api("DELETE", f"users/{quote(name, safe='')}", missing_ok=True)

    def set_permissions(
        self, user: str, *, vhost: str = "/", configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Say by regular expressions which names a user may configure, write to and read; "" allows none."""
        body = {"configure": configure, "write": write, "read": read}
        self.api("PUT", _path("permissions", vhost, user), body)

    def add_vhost(self, name: str) -> None:
        """Add a virtual host, in which the node's own user may do everything."""
        self.api("PUT", f"vhosts/{quote(name, safe='')}")
        self.set_permissions(self.user, vhost=name)

    def delete_vhost(self, name: str) -> None:
        self.api("DELETE", f"vhosts/{quote(name, safe='')}", missing_ok=True)

    @property
    def alarmed(self) -> bool:
        """Whether the node blocks those who publish, because of its memory or its disk."""
        try:
            self.api("GET", "health/checks/local-alarms")
        except OSError as exc:
            if "alarms in effect" in str(exc):
                return True
            raise
        return False


def _path(kind: str, vhost: str, name: str) -> str:
    return f"{kind}/{quote(vhost, safe='')}/{quote(name, safe='')}"
