"""The queues of calls at brokers: what a profile of the bus becomes for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CHANGES"]

#: Milliseconds that a queue outlives its servers: they may only be reconnecting.
_KEPT = 60_000

_AMQP = frozenset({"exchange", "queue", "routing_key", "mandatory", "expiry", "exclusive", "offset"})
_STOMP = frozenset({"destination", "routing_key", "subscription", "durable", "declare", "expiry"})


def _amqp(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a profile of RabbitMQ for calls: what its events need is left out."""
    kept = {key: value for key, value in data.items() if key not in _AMQP}
    return {**kept, "persistent": False, "queue": {"arguments": {"x-expires": _KEPT}}}


def _stomp(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a profile of STOMP for calls: what its events need is left out."""
    kept = {key: value for key, value in data.items() if key not in _STOMP}
    return {
        **kept,
        "persistent": False,
        "destination": "/queue/{routing_key}",
        "declare": {"x-expires": str(_KEPT)},
    }


#: By the names of ingress plugins: what makes the data of a profile those that calls need.
CHANGES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"amqp": _amqp, "stomp": _stomp}
