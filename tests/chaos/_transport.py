"""The transports: a broker, the profile that leads to a queue of it, and another way to read that queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.servers import _activemq, _versions
from tests.servers._activemq import ActiveMQ
from tests.servers._rabbitmq import RabbitMQ

__all__ = ["FOR_EVER", "TRANSPORTS", "Broker", "Transport", "amqp", "taken"]

Broker = RabbitMQ | ActiveMQ
CHUNK = 5_000  # messages that are read at once
#: For lanes whose events are to come through whatever happens.
FOR_EVER = {"retry": {"attempts": 0}}


def amqp(node: Any, queue: str | None, /, *, port: int = 0, **settings: Any) -> dict[str, Any]:
    """Return a profile that publishes to a queue if one is named, through a proxy when a port is given."""
    return {
        "url": f"amqp://{node.user}:{node.password}@{node.host}:{port or node.port}/",
        **({} if queue is None else {"queue": queue, "routing_key": queue}),
        "delivery": FOR_EVER,
        **settings,
    }


def _stomp(node: Any, queue: str | None, /, *, port: int = 0, **settings: Any) -> dict[str, Any]:
    if "confirm_timeout" in settings:
        settings["receipt_timeout"] = settings.pop("confirm_timeout")
    return {
        "url": f"stomp://{node.user}:{node.password}@{node.host}:{port or node.stomp_port}/",
        "destination": f"/queue/{queue}",
        "delivery": FOR_EVER,
        **settings,
    }


class Transport(NamedTuple):
    """How a run reaches a broker.

    :ivar provider: of the profile.
    :ivar profile: makes one, of a node, the name of a queue, and settings.
    :ivar port: the name of the node's port.
    :ivar node: makes the node, of a version of RabbitMQ where it is one.
    :ivar missing: says what is to be installed first.
    """

    provider: str
    profile: Callable[..., dict[str, Any]]
    port: str
    node: Callable[[str], Broker]
    missing: Callable[[str], str]


TRANSPORTS: Mapping[str, Transport] = {
    "amqp": Transport("amqp", amqp, "port", _versions.new, _versions.missing),
    "stomp": Transport("stomp", _stomp, "stomp_port", _versions.new, _versions.missing),
    "activemq": Transport("stomp", _stomp, "stomp_port", lambda _: ActiveMQ(), lambda _: _activemq.missing()),
}


def taken(node: Broker, queue: str) -> list[bytes]:
    """Take everything off a queue, in its order, by a way that is none of evbus's."""
    bodies: list[bytes] = []
    # Not by its depth, which lags behind in a quorum queue.
    if isinstance(node, ActiveMQ):
        while found := node.take(queue):
            bodies += [message.body for message in found]
    else:
        while messages := node.take(queue, CHUNK):
            bodies += [message["payload"].encode() for message in messages]
    return bodies
