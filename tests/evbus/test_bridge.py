"""A bridge in a program: ``hub.evbus.bridge``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evbus.api import bus
from evbus.errors import BusStopped, ConfigError, ConnectFailed, Unavailable
from tests.evbus.kit import WAIT, bodies, new_hub, running, write
from tests.servers._proxy import Proxy
from tests.servers._rabbitmq import RabbitMQ

#: A source that yields the profile's ``bodies`` and then waits, and notes what is acknowledged.
BODIES = """
import asyncio
from evbus.types import Delivery, Envelope

def __init__(hub):
    hub.egress.ACKED, hub.egress.TOLD = [], []

async def consume(hub, ctx, subscription):
    def settle(tag, accepted, requeue):
        hub.egress.ACKED.append(tag)
        hub.egress.TOLD.append((tag, accepted, requeue))
    for body in ctx.acct["bodies"]:
        yield Delivery(Envelope(ctx.name, "key", body.encode(), {"x": "y"}), settle, body)
    if ctx.acct.get("fails"):
        raise OSError(f"no such thing as {ctx.acct.password}")
    await asyncio.Event().wait()
"""


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    root = write(tmp_path / "plugins", egress__bodies=BODIES)
    return new_hub(plugin_dirs=[root], dead_store=tmp_path / "dead.jsonl", drain_timeout=WAIT)


def contexts(*texts: str, **more: Any) -> dict[str, Any]:
    return {"bodies": {"in": {"bodies": texts, **more}}, "internal": {"default": {}}}


async def test_what_is_consumed_reaches_the_profiles_that_match(hub: Any) -> None:
    profiles = contexts("1", "2", "3")
    profiles["internal"]["other"] = {}
    async with running(hub, profiles):
        await hub.evbus.bridge.run(profiles, "in", count=2)
        assert await bodies(hub, "key", 2) == [b"1", b"2"]
        assert hub.egress.ACKED == ["1", "2"]
        assert hub.evbus.stats.snapshot()["lanes"]["internal.internal.other"]["accepted"] == 0
    latency = hub.evbus.stats.snapshot()["lanes"]["internal.internal.default"]["latency"]
    assert latency["max"] < WAIT


async def test_two_sources_run_side_by_side_and_one_ends_by_itself(hub: Any) -> None:
    profiles = contexts("1", "2")
    profiles["bodies"]["more"] = {"bodies": ["3"]}
    async with running(hub, profiles):
        endless = asyncio.ensure_future(hub.evbus.bridge.run(profiles, "more"))
        await asyncio.wait_for(hub.evbus.bridge.run(profiles, "in", count=2), WAIT)
        assert sorted(await bodies(hub, "key", 3)) == [b"1", b"2", b"3"]
        assert not endless.done()
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless


async def test_what_is_not_settled_in_time_is_told(
    hub: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    hub.OPT = hub.pop.data.imap({"evbus": {**hub.OPT.evbus, "drain_timeout": 0.01}})
    data = {"path": str(tmp_path / "file" / "out"), "delivery": {"retry": {"min": 9, "max": 9}}}
    profiles = {**contexts("1", "2"), "file": {"out": data}}
    left: list[int] = []

    with caplog.at_level(logging.WARNING):
        async with running(hub, profiles):
            await hub.evbus.bridge.run(profiles, "in", "out", count=2, on_left=left.append)
            assert hub.egress.ACKED == []
    assert left == [2]
    assert "bodies profile 'in': 2 deliveries were not settled in time, and stay with" in caplog.text
    assert not (tmp_path / "dead.jsonl").exists()


def test_a_bus_that_does_not_run_bridges_nothing(hub: Any) -> None:
    with pytest.raises(BusStopped):
        asyncio.run(hub.evbus.bridge.run(contexts("1"), "in"))


async def test_a_bus_that_was_started_with_other_profiles_is_told(hub: Any) -> None:
    async with running(hub, {"internal": {"other": {}}}):
        with pytest.raises(ConfigError, match="the bus was started without a profile that matches 'default'"):
            await hub.evbus.bridge.run(contexts("1"), "in")


async def test_a_source_that_fails_is_one_sentence_without_secrets(hub: Any) -> None:
    profiles = contexts(fails=True, password="hunter22")
    async with running(hub, profiles):
        with pytest.raises(Unavailable) as caught:
            await hub.evbus.bridge.run(profiles, "in")
        said = "bodies profile 'in': the source ended: OSError: no such thing as *** (at "
        assert re.fullmatch(re.escape(said) + r"/.*/bodies\.py:\d+\)", str(caught.value))


@pytest.mark.parametrize("started", [True, False])
async def test_a_body_above_max_body_is_a_dead_letter_and_is_not_yielded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, started: bool
) -> None:
    root, dead = write(tmp_path / "plugins", egress__bodies=BODIES), tmp_path / "dead.jsonl"
    hub = new_hub(plugin_dirs=[root], dead_store=dead, drain_timeout=WAIT, max_body=4)
    profiles = contexts("four", "fives", "4")

    async def yielded(**options: Any) -> list[bytes]:
        found = []
        async with contextlib.aclosing(hub.evbus.bridge.consume(profiles, "in", **options)) as deliveries:
            async for delivery in deliveries:
                found.append(delivery.envelope.body)
                delivery.ack()
                if delivery.envelope.body == b"4":
                    break
        return found

    with caplog.at_level(logging.ERROR):
        async with running(hub, profiles) if started else contextlib.nullcontext():
            assert await asyncio.wait_for(yielded(), WAIT) == [b"four", b"4"]
            assert hub.egress.TOLD == [("four", True, False), ("fives", False, False), ("4", True, False)]
            assert await asyncio.wait_for(yielded(any_size=True), WAIT) == [b"four", b"fives", b"4"]
    why = "the event body has 5 bytes, more than the 4 that the option max_body allows"
    # Without a bus there is no dead store, only what the source does with what is refused.
    records = [json.loads(line) for line in dead.read_text().splitlines()] if started else []
    assert [record["dead"]["lane"] for record in records] == ["bodies.in"] * started
    assert why in (records[0]["dead"]["reason"] if started else caplog.text)


async def test_a_body_above_max_body_is_dead_in_each_lane_of_a_bridge(tmp_path: Path) -> None:
    root, dead = write(tmp_path / "plugins", egress__bodies=BODIES), tmp_path / "dead.jsonl"
    hub = new_hub(plugin_dirs=[root], dead_store=dead, drain_timeout=WAIT, max_body=4)
    profiles = contexts("four", "fives", "4")
    profiles["internal"]["*"] = {}

    async with running(hub, profiles):
        await hub.evbus.bridge.run(profiles, "in", count=3)
        assert sorted(hub.egress.TOLD) == [(each, True, False) for each in ("4", "fives", "four")]
        for lane in hub.evbus.stats.snapshot()["lanes"].values():
            assert (lane["accepted"], lane["delivered"], lane["dead"]) == (3, 2, 1)
    records = [json.loads(line) for line in dead.read_text().splitlines()]
    assert sorted(record["dead"]["lane"] for record in records) == [
        "internal.internal.*",
        "internal.internal.default",
    ]


# On a real broker


async def test_a_program_that_is_no_pop_project_bridges_through_its_handle(
    rabbitmq: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    profiles = {
        "amqp": {"orders": {"url": rabbitmq.url, "queue": unique}},
        "file": {"archive": {"path": str(out)}},
    }

    async with bus(profiles, dead_store=str(tmp_path / "dead.jsonl")) as events:
        for number in range(3):
            await events.put(routing_key=unique, body={"id": number}, profile="orders")
        await events.hub.evbus.bridge.run(profiles, "orders", "archive", count=3)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["profile"], line["routing_key"], line["body"]) for line in lines] == [
        ("archive", unique, {"id": number}) for number in range(3)
    ]
    assert rabbitmq.depth(unique) == (0, 0)


async def test_a_queue_that_may_not_be_read_fails_at_first(
    rabbitmq: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    rabbitmq.declare_queue(unique)
    rabbitmq.add_user(unique, "secret-word")
    rabbitmq.set_permissions(unique, read="")
    url = rabbitmq.url.replace("guest:guest", f"{unique}:secret-word")
    profiles = {"amqp": {"in": {"url": url, "queue": unique}}, "internal": {"default": {}}}

    try:
        async with bus(profiles, dead_store=str(tmp_path / "dead.jsonl")) as events:
            with pytest.raises(
                ConnectFailed, match=f"cannot consume from '{unique}': ACCESS_REFUSED"
            ) as caught:
                await events.hub.evbus.bridge.run(profiles, "in")
            assert "secret-word" not in str(caught.value)
    finally:
        rabbitmq.delete_user(unique)


async def test_a_source_that_breaks_while_the_destination_is_down_brings_no_more_than_its_prefetch(
    broken_rabbitmq: RabbitMQ, proxy: Callable[..., Proxy], unique: str, tmp_path: Path
) -> None:
    source, target = f"{unique}-in", f"{unique}-out"
    broken_rabbitmq.declare_queue(source)
    broken_rabbitmq.declare_queue(target)
    for number in range(10):
        broken_rabbitmq.publish(source, str(number))
    gate = proxy(broken_rabbitmq.port)
    gate.refuse()
    down = broken_rabbitmq.url.replace(f":{broken_rabbitmq.port}", f":{gate.port}")
    profiles = {
        "amqp": {
            "src": {"url": broken_rabbitmq.url, "queue": source, "prefetch": 4},
            "out": {"url": down, "queue": target, "routing_key": target, "first_connect": "wait"},
        }
    }
    most: list[int] = [0]

    async with bus(profiles, dead_store=str(tmp_path / "dead.jsonl")) as events:

        async def seen(condition: Callable[[Any], bool]) -> None:
            while True:
                found = events.hub.evbus.stats.snapshot()
                lane = found["lanes"]["amqp.amqp.out"]
                most[0] = max(most[0], lane["queued"] + lane["in_flight"])
                if condition(found):
                    return
                await asyncio.sleep(0.005)

        bridge = asyncio.ensure_future(events.hub.evbus.bridge.run(profiles, "src", "out"))
        for times in range(1, 7):
            taken = 4 * times
            await asyncio.wait_for(seen(lambda found, taken=taken: found["bus"]["relayed"] == taken), WAIT)
            if times < 6:
                await asyncio.to_thread(broken_rabbitmq.close_connections)
        gate.accept()
        await asyncio.wait_for(seen(lambda found: found["lanes"]["amqp.amqp.out"]["delivered"] >= 10), WAIT)
        bridge.cancel()
        await asyncio.wait({bridge})
    assert most == [4]
    arrived = [message["payload"] for message in broken_rabbitmq.take(target)]
    assert {*arrived} == {str(number) for number in range(10)}
    assert 10 <= len(arrived) <= 14
    assert broken_rabbitmq.queue_depth(source) == 0
    assert not (tmp_path / "dead.jsonl").exists()


async def test_a_source_that_breaks_while_the_destination_confirms_nothing_brings_no_more_than_its_prefetch(
    broken_rabbitmq: RabbitMQ, proxy: Callable[..., Proxy], unique: str, tmp_path: Path
) -> None:
    """What is being sent cannot be taken back, and a lane hands over a batch before the last is confirmed."""
    source, target = f"{unique}-in", f"{unique}-out"
    broken_rabbitmq.declare_queue(source)
    broken_rabbitmq.declare_queue(target)
    for number in range(20):
        broken_rabbitmq.publish(source, str(number))
    gate, feed = proxy(broken_rabbitmq.port), proxy(broken_rabbitmq.port)
    profiles = {
        "amqp": {
            "src": {"url": f"amqp://127.0.0.1:{feed.port}/", "queue": source, "prefetch": 4},
            "out": {"url": f"amqp://127.0.0.1:{gate.port}/", "queue": target, "routing_key": target},
        }
    }
    profiles["amqp"]["src"]["reconnect"] = {"min": 0.01, "max": 0.05}
    most: list[int] = [0]
    arrived: list[str] = []

    async def all_arrived() -> None:
        while len({*arrived}) < 20:
            arrived.extend(
                message["payload"] for message in await asyncio.to_thread(broken_rabbitmq.take, target)
            )

    async with bus(profiles, dead_store=str(tmp_path / "dead.jsonl")) as events:

        async def seen(condition: Callable[[Any], bool]) -> None:
            while True:
                lane = events.hub.evbus.stats.snapshot()["lanes"]["amqp.amqp.out"]
                most[0] = max(most[0], lane["queued"] + lane["in_flight"])
                if condition(lane):
                    return
                await asyncio.sleep(0.005)

        gate.freeze("down")
        bridge = asyncio.ensure_future(events.hub.evbus.bridge.run(profiles, "src", "out"))
        await asyncio.wait_for(seen(lambda lane: lane["in_flight"] == 4), WAIT)
        for _ in range(4):
            accepted = feed.accepted
            await asyncio.to_thread(feed.cut)
            # The source is there again, with four deliveries that wait for their turn.
            await asyncio.wait_for(seen(lambda _, before=accepted: feed.accepted > before), WAIT)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(seen(lambda lane: lane["in_flight"] > 4), 0.5)
        gate.thaw()
        # How many are sent twice is not known, and so not how many there are to deliver.
        await asyncio.wait_for(all_arrived(), WAIT)
        bridge.cancel()
        await asyncio.wait({bridge})
    assert most == [4]
    arrived += [message["payload"] for message in broken_rabbitmq.take(target)]
    assert {*arrived} == {str(number) for number in range(20)}
    assert len(arrived) <= 24
    assert broken_rabbitmq.queue_depth(source) == 0
