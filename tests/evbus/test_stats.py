"""The numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.evbus.kit import new_hub, running
from tests.servers._rabbitmq import RabbitMQ


def test_a_snapshot_before_anything_happened(hub: Any) -> None:
    found = hub.evbus.stats.snapshot()
    assert found["state"] == "new"
    assert found["lanes"] == {}
    assert found["bus"]["accepted"] == found["bus"]["queued"] == 0


async def test_the_counters_of_the_bus_and_of_each_lane_add_up(tmp_path: Path) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")
    contexts = {"internal": {"a": {}, "*": {}}, "file": {"a": {"path": str(tmp_path / "out")}}}

    hub.evbus.broker.put_nowait(body=0, profile="got")
    await hub.evbus.broker.get()
    async with running(hub, contexts):
        for profile in ("a", "a", "b"):
            await hub.evbus.broker.put(body=1, profile=profile)
    found = hub.evbus.stats.snapshot()
    bus = found["bus"]
    assert bus["accepted"] == 4
    assert bus["accepted"] == sum(bus[name] for name in ("routed", "unmatched", "got", "dropped", "queued"))
    assert {name: lane["delivered"] for name, lane in found["lanes"].items()} == {
        "internal.internal.a": 2,
        "internal.internal.*": 3,
        "file.file.a": 2,
    }
    for lane in found["lanes"].values():
        parts = ("delivered", "dead", "dropped", "queued", "in_flight")
        assert lane["accepted"] == sum(lane[name] for name in parts)
        assert set(lane["latency"]) == {"p50", "p90", "p99", "max"}
    assert found["state"] == "stopped"


def test_a_snapshot_shows_no_secret(tmp_path: Path) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")
    secret = "hunter22-hunter22"
    contexts = {"webhook": {"*": {"url": "https://203.0.113.1/", "secret": f"raw:{secret}"}}}
    assert secret not in repr(hub.evbus.init.connect(contexts)) + repr(hub.evbus.stats.snapshot())


def test_connections_and_what_a_bridge_brought_in_are_counted(
    tmp_path: Path, rabbitmq: RabbitMQ, unique: str
) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")
    away = {"url": "amqp://127.0.0.1:1/", "first_connect": "wait"}
    amqp = {"in": {"url": rabbitmq.url, "queue": unique}, "away": away}
    contexts = {"amqp": amqp, "internal": {"default": {}}}

    async def main() -> Any:
        before = hub.evbus.stats.snapshot()["connections"]
        async with running(hub, contexts):
            await hub.evbus.broker.put(routing_key=unique, body=1, profile="in")
            await hub.evbus.bridge.run(contexts, "in", count=1)
            return before, hub.evbus.stats.snapshot()

    before, found = asyncio.run(main())
    assert before == {}
    assert (found["bus"]["accepted"], found["bus"]["relayed"]) == (1, 1)
    up, down = found["connections"]["amqp.in"], found["connections"]["amqp.away"]
    assert (up["state"], up["connects"], up["blocked"], up["last_error"]) == ("up", 1, "", "")
    assert down["state"] in ("connecting", "down")
    assert (down["connects"], "nothing listens there" in down["last_error"]) == (0, True)
    assert hub.evbus.stats.snapshot()["connections"] == {}
    assert rabbitmq.depth(unique) == (0, 0)
