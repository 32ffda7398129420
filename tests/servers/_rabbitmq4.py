"""A private node of RabbitMQ 4, which speaks AMQP 1.0 by itself, from the folder that .ci/rabbitmq4 fills."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.servers._rabbitmq import RabbitMQ

FOLDER = Path(__file__).parent.parent.parent / ".servers" / "rabbitmq4"
ROOT = FOLDER / "root"
ERLANG = ROOT / "usr" / "lib" / "erlang" / "bin"


def missing() -> str:
    """Return what is to be done before a node can start here, or an empty string."""
    if (FOLDER / "complete").exists():
        return ""
    return "RabbitMQ 4 is not here: .ci/rabbitmq4 fetches it, from Debian 13, into .servers"


class RabbitMQ4(RabbitMQ):
    """A node that is like one of version 3 in everything that tests do to it."""

    name = "RabbitMQ 4"
    scripts = ROOT / "usr" / "lib" / "rabbitmq" / "bin"

    def _environment(self) -> Mapping[str, str]:
        found = dict(super()._environment())
        found["PATH"] = f"{ERLANG}:{found['PATH']}"
        return found
