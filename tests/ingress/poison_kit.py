"""A bus whose connection breaks each time that one of its events is sent, as a broker's may."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evbus.api import bus
from tests.ingress.amqp_kit import eventually

GOOD = 20
BAD = "poison"


def breaking() -> Callable[[bytes], bytes]:
    """Return a function for a proxy: it resets the connection over which the bad event is sent."""

    def through(data: bytes) -> bytes:
        if BAD.encode() in data:
            raise ConnectionResetError
        return data

    return through


async def send_among_good_ones(folder: Path, transport: str, data: dict[str, Any], key: str) -> None:
    """Put good events around a bad one, and see that the bad one is dead and the others are delivered."""
    delivery = {"retry": {"attempts": 3, "min": 0.001, "max": 0.02}}
    profile = {"reconnect": {"min": 0.01, "max": 0.05}, **data, "delivery": delivery}
    options = {"dead_store": str(folder / "dead.jsonl"), "drain_timeout": 20}
    async with bus({transport: {"p": profile}}, **options) as events:

        def lane() -> dict[str, Any]:
            found: dict[str, Any] = events.snapshot()["lanes"][f"{transport}.{transport}.p"]
            return found

        for body in (*range(GOOD // 2), BAD, *range(GOOD // 2, GOOD)):
            await events.put(routing_key=key, body=body, profile="p")
        await eventually(lambda: lane()["delivered"] == GOOD, "the others are delivered")
        await eventually(lambda: lane()["dead"] == 1, "the bad one is given up")
    (letter,) = (json.loads(line) for line in (folder / "dead.jsonl").read_text().splitlines())
    assert (letter["body"], letter["dead"]["attempts"]) == (BAD, 3)
    assert "the connection was lost" in letter["dead"]["reason"]
