"""The versions of RabbitMQ that tests and chaos runs are done on."""

from __future__ import annotations

from tests.servers import _rabbitmq, _rabbitmq4
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._rabbitmq4 import RabbitMQ4

#: The first is the installed one. "4.0-denied" forbids queues that are neither durable nor exclusive.
VERSIONS = ("3.10", "4.0", "4.0-denied", "4.3")


def missing(version: str) -> str:
    """Return what is to be done before a node of that version can start here, or an empty string."""
    return _rabbitmq.missing() if version == VERSIONS[0] else _rabbitmq4.missing(version.partition("-")[0])


def new(version: str, *, tls: bool = False) -> RabbitMQ:
    """Return a node of one of `VERSIONS`, which is to be started."""
    if version == VERSIONS[0]:
        return RabbitMQ(tls=tls)
    number, _, denied = version.partition("-")
    return RabbitMQ4(number, tls=tls, settings=_rabbitmq4.DENIED if denied else None)
