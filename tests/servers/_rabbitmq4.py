"""Private nodes of RabbitMQ 4, which speaks AMQP 1.0 by itself, from the folders that .ci/rabbitmq fills."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.servers._rabbitmq import RabbitMQ

SERVERS = Path(__file__).parent.parent.parent / ".servers"
# The setting of brokers that forbid queues which are neither durable nor exclusive.
DENIED = {"deprecated_features.permit.transient_nonexcl_queues": "false"}


def missing(version: str = "4.0") -> str:
    """Return what is to be done before a node of that version can start here, or an empty string."""
    if (_folder(version) / "complete").exists():
        return ""
    return f"RabbitMQ {version} is not here: `.ci/rabbitmq {version}` fetches it, from Debian, into .servers"


class RabbitMQ4(RabbitMQ):
    """A node, of 4.0 or 4.3, that is like one of version 3 in everything that tests do to it."""

    name = "RabbitMQ 4"

    def __init__(
        self, version: str = "4.0", *, tls: bool = False, settings: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(tls=tls, settings=settings)
        self.scripts = _folder(version) / "root" / "usr" / "lib" / "rabbitmq" / "bin"
        self._erlang = _folder(version) / "root" / "usr" / "lib" / "erlang" / "bin"

    def sync(self) -> None:
        """Have what was declared on the disk: since 4.3 it is there before the broker answers."""
        if self.version < (4, 3):
            super().sync()

    def _environment(self) -> Mapping[str, str]:
        found = dict(super()._environment())
        found["PATH"] = f"{self._erlang}:{found['PATH']}"
        return found


def _folder(version: str) -> Path:
    return SERVERS / f"rabbitmq-{version}"
