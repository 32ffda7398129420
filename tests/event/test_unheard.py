"""Events that were sent and that nobody listens to."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.handling.events.declare import event
from evbus.types import Subscription
from tests.evbus.kit import bodies, running
from tests.event.kit import INTERNAL, WAIT, Got, OrderPlaced, listening, settled


@event()
@dataclasses.dataclass
class OrderPlacd:
    """A slip of the pen."""

    id: int = 0


@event(durable=True)
@dataclasses.dataclass
class Kept:
    id: int = 0


@event()
@dataclasses.dataclass
class Other:
    id: int = 0


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "evbus.event")


async def sent(hub: Any, *events: Any, **options: Any) -> None:
    """Send events, and return when they have left the bus."""
    for each in events:
        await hub.event.init.send(each, **options)
    await settled(hub)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of events; of other tests asyncio may tell of tasks, the bus of listeners."""
    said = [record.getMessage() for record in caplog.records if record.name == "evbus.event"]
    return [one for one in said if not one.startswith("nobody has subscribed")]


@pytest.mark.parametrize("profiles", [INTERNAL, {"internal": {"default": {"limit": 100}}}])
async def test_they_are_told_once_for_each_name_counted_and_reported(
    hub: Any, caplog: pytest.LogCaptureFixture, profiles: Any
) -> None:
    async with running(hub, profiles):
        await sent(hub, *[OrderPlaced()] * 3, Kept(), Kept())
        assert hub.evbus.stats.snapshot()["unheard"] == {"OrderPlaced": 3, "Kept": 2}
    assert told(caplog) == [
        f"nobody listens to the event {name}, which was sent; there is no listener"
        for name in ("OrderPlaced", "Kept")
    ]
    report = hub.evbus.ENGINE.report
    assert report.unheard == {"OrderPlaced": 3, "Kept": 2}
    assert str(report).endswith(" s); nobody listened to OrderPlaced: 3, Kept: 2")
    # The next run reports its own.
    async with running(hub, profiles):
        await sent(hub, Kept())
    assert hub.evbus.ENGINE.report.unheard == {"Kept": 1}
    assert hub.evbus.stats.snapshot()["unheard"] == {"OrderPlaced": 3, "Kept": 3}
    assert len(told(caplog)) == 2


async def test_the_nearest_listener_is_named(caplog: pytest.LogCaptureFixture) -> None:
    got = Got()
    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, got.on, name="billing")
        await sent(hub, OrderPlacd(), Other(), OrderPlaced())
    assert got == [OrderPlaced()]
    assert told(caplog) == [
        (
            "nobody listens to the event OrderPlacd, which was sent; the listener billing listens to "
            "OrderPlaced"
        ),
        "nobody listens to the event Other, which was sent; listened to are OrderPlaced",
    ]


async def test_nothing_is_told_of_what_somebody_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiles = {
        "internal": {"default": {}, "both": {}},
        "file": {"both": {"path": str(tmp_path / "events.jsonl")}},
    }
    got = Got()
    async with listening(profiles) as hub:
        # What is put may be for who asks for its queue later, as pop-evbus has it.
        await hub.evbus.broker.put(routing_key="later", body=1)
        # Somebody has asked for the queue already.
        await hub.ingress.internal.get("OrderPlaced")
        await sent(hub, OrderPlaced())
        await bodies(hub, "OrderPlaced", 1)
        # It goes to a file as well.
        await sent(hub, OrderPlacd(), profile="both")
        # It waits for a durable listener that is not there now.
        await hub.event.init.unsubscribe(hub.event.init.subscribe(Kept, got.on))
        await sent(hub, Kept())
        # It is consumed without a listener.
        deliveries = hub.evbus.bridge.consume(hub.evbus.CONTEXTS, "default", Subscription(name="Other"))
        taking = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0)
        await hub.event.init.send(Other())
        (await asyncio.wait_for(taking, WAIT)).ack()
        await deliveries.aclose()
        assert hub.evbus.stats.snapshot()["unheard"] == {}
    assert hub.evbus.ENGINE.report.unheard == {}
    assert "nobody listened" not in str(hub.evbus.ENGINE.report)
    assert not [said for said in told(caplog) if "nobody listens" in said]


async def test_of_two_internal_profiles_one_listener_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    got = Got()
    async with listening({"internal": {"default": {}, "*": {}}}) as hub:
        hub.event.init.subscribe(OrderPlaced, got.on)
        await sent(hub, OrderPlaced())
        assert hub.evbus.stats.snapshot()["unheard"] == {}
    assert got == [OrderPlaced()]
    assert told(caplog) == []


async def test_who_listens_to_a_pattern_hears_the_events_that_match_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @event("shop.opened")
    @dataclasses.dataclass
    class Opened:
        id: int = 0

    async with listening({"internal": {"default": {}, "other": {}}}) as hub:
        hub.event.init.subscribe("shop.*", Got().on)
        await sent(hub, Opened(), Other())
        await sent(hub, Opened(), profile="other")
        assert hub.evbus.stats.snapshot()["unheard"] == {"Other": 1}
    assert len(told(caplog)) == 1


async def test_names_that_come_and_go_are_not_remembered_for_ever() -> None:
    async with listening() as hub:
        got = Got()
        hub.event.init.subscribe("shop.*", got.on)
        subscribers = hub.ingress.SUBSCRIBERS["*"]
        subscribers.REMEMBERED = 10
        for number in range(25):
            await hub.evbus.broker.put(routing_key=f"shop.{number}", body=number)
            await got.wait(number + 1)
        assert len(subscribers) <= 11
        late = hub.event.init.subscribe("shop.24", got.on)
        await hub.evbus.broker.put(routing_key="shop.24", body=25)
        assert (await got.wait(27))[25:] == [25, 25]
        assert await hub.event.init.unsubscribe(late)


async def test_what_nobody_listens_to_is_looked_for_once_until_somebody_comes_or_goes(caplog: Any) -> None:
    async with listening() as hub:
        looked: list[int] = []
        unheard = hub.event.UNHEARD
        listened = unheard._listened
        unheard._listened = lambda: looked.append(1) or listened()
        hub.event.init.subscribe(Other, Got().on)
        for _ in range(20):
            await sent(hub, OrderPlacd(), OrderPlacd())
        assert len(looked) == 2  # and once for what is logged
        hub.event.init.subscribe(Kept, Got().on)
        for _ in range(20):
            await sent(hub, OrderPlacd())
        assert (len(looked), unheard.counts) == (3, {"OrderPlacd": 60})
        hub.event.init.subscribe(OrderPlacd, Got().on)
        await sent(hub, OrderPlacd())
        assert unheard.counts == {"OrderPlacd": 60}


@pytest.mark.parametrize("limit", [0, 100])
async def test_an_event_that_two_internal_profiles_match_is_counted_once(
    hub: Any, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    async with running(hub, {"internal": {name: {"limit": limit} for name in ("def*", "*")}}):
        await sent(hub, *[OrderPlaced()] * 3)
        assert hub.evbus.stats.snapshot()["unheard"] == {"OrderPlaced": 3}
        await sent(hub, OrderPlaced(), profile="other")
        assert hub.evbus.stats.snapshot()["unheard"] == {"OrderPlaced": 4}
    assert told(caplog) == ["nobody listens to the event OrderPlaced, which was sent; there is no listener"]
