"""A broker that waits no longer for an acknowledgement (RabbitMQ's ``consumer_timeout``)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evbus.api import bus
from tests.servers._rabbitmq import RabbitMQ
from tests.transports.listening import Inbox, order

#: Milliseconds: how long the broker waits, and how often it looks, which a channel is told when it opens.
TIMEOUT, TICK = 1500, 500
USUAL = (1_800_000, 60_000)

pytestmark = pytest.mark.parametrize("each_spare_rabbitmq_of_the_run", ["3.10", "4.0"], indirect=True)


@pytest.fixture(scope="module")
def impatient(each_spare_rabbitmq_of_the_run: RabbitMQ) -> Iterator[RabbitMQ]:
    """Return a broker that waits for 1.5 s."""
    node = each_spare_rabbitmq_of_the_run.mend()
    _set(node, TIMEOUT, TICK)
    yield node
    _set(node, *USUAL)


def _set(node: RabbitMQ, timeout: int, tick: int) -> None:
    node.evaluate(
        f"application:set_env(rabbit, consumer_timeout, {timeout}), "
        f"application:set_env(rabbit, channel_tick_interval, {tick})"
    )


def _told(caplog: pytest.LogCaptureFixture, about: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if about in record.getMessage()]


def _check_warning(caplog: pytest.LogCaptureFixture, queue: str) -> None:
    """See that one line names the queue, what the broker says, and what to set."""
    (said,) = _told(caplog, "is interrupted")
    assert repr(queue) in said
    assert "PRECONDITION_FAILED" in said
    assert f"{TIMEOUT} ms" in said
    assert "raise that, lower prefetch" in said


async def test_a_listener_that_takes_too_long_drops_what_it_has_not_begun_and_goes_on_over_a_new_channel(
    impatient: RabbitMQ, unique: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handled: Counter[int] = Counter()
    kind = order(unique)

    slow = asyncio.Event()

    async def handle(event: Any) -> None:
        handled[event.number] += 1
        if not event.number and handled[0] == 1:
            await slow.wait()

    data = {"url": impatient.url, "exchange": {"name": unique, "type": "topic", "auto_delete": True}}
    inbox = Inbox(kind, handle, prefetch=4)
    async with bus({"amqp": {"default": data}}, dead_store=str(tmp_path / "dead.jsonl")) as events:
        inbox.listen(events.hub)
        await events.hub.event.init.ready()
        for number in range(8):
            await events.hub.event.init.send(kind(number))
        assert (await inbox.next()).number == 0
        while not _told(caplog, "is interrupted"):
            (found,) = events.hub.event.init.subscriptions(unique)
            await asyncio.sleep(0.02)
        slow.set()
        while len(inbox.got) < 9:
            await inbox.next()
        (found,) = events.hub.event.init.subscriptions(unique)
        assert found["queued"] == 0
    # The one that was being handled comes twice, as the broker could not be told; those behind it once.
    assert handled == {0: 2, **dict.fromkeys(range(1, 8), 1)}
    _check_warning(caplog, f"{unique}::inbox")
    assert impatient.queue_depth(f"{unique}::inbox") == 0
    assert not (tmp_path / "dead.jsonl").exists()


async def test_consume_yields_again_what_was_held_for_too_long(
    impatient: RabbitMQ, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    impatient.declare_queue(unique)
    for number in range(6):
        impatient.publish(unique, str(number))

    async with bus({"amqp": {"in": {"url": impatient.url, "queue": unique, "prefetch": 3}}}) as events:
        following = events.consume("in")
        held = await anext(following)
        # What waits behind it is not taken: the three come again.
        lost = asyncio.Event()
        held.origin.watch(lambda _: lost.set())
        await lost.wait()
        assert held.gone
        held.ack()  # does nothing any more
        again = []
        for _ in range(6):
            again.append(await anext(following))
            again[-1].ack()
        assert [int(delivery.envelope.body) for delivery in again] == list(range(6))
        assert [delivery.redelivered for delivery in again] == [True] * 3 + [False] * 3
        await following.aclose()
    _check_warning(caplog, unique)
    assert impatient.queue_depth(unique) == 0


async def test_a_bridge_to_what_is_down_for_too_long_has_no_more_under_way_and_loses_nothing(
    impatient: RabbitMQ, unique: str, proxy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = f"{unique}-in", f"{unique}-out"
    impatient.declare_queue(source)
    impatient.declare_queue(target)
    for number in range(6):
        impatient.publish(source, str(number))
    gate = proxy(impatient.port)
    gate.refuse()
    profiles = {
        "amqp": {
            "src": {"url": impatient.url, "queue": source, "prefetch": 3},
            "out": {"url": f"amqp://127.0.0.1:{gate.port}/", "queue": target, "first_connect": "wait"},
        }
    }
    profiles["amqp"]["out"]["routing_key"] = target

    async with bus(profiles, dead_store=str(tmp_path / "dead.jsonl")) as events:
        bridge = asyncio.ensure_future(events.hub.evbus.bridge.run(profiles, "src", "out"))
        lane: dict[str, Any] = {"delivered": 0}
        while lane["delivered"] < 6:
            lane = events.snapshot()["lanes"]["amqp.amqp.out"]
            assert lane["queued"] + lane["in_flight"] <= 3
            if _told(caplog, "is interrupted"):
                gate.accept()
            await asyncio.sleep(0.02)
        bridge.cancel()
        await asyncio.wait({bridge})
    assert "PRECONDITION_FAILED" in _told(caplog, "is interrupted")[0]
    assert {message["payload"] for message in impatient.take(target)} == {str(number) for number in range(6)}
    assert impatient.queue_depth(source) == 0
    assert not (tmp_path / "dead.jsonl").exists()
