"""What a process sends waits for its own listeners that the broker has not confirmed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from evbus import api
from evbus.engine.wire.base import supervisor
from evbus.errors import ConnectFailed, ProfileError
from tests.evbus.kit import new_hub, running
from tests.transports.kit import WAIT, eventually
from tests.transports.listening import Bus, Inbox, order, send
from tests.transports.table import Deaf


def lane_state(hub: Any, profile: str = "default") -> str:
    """Return the state of the lane of a profile."""
    lanes = hub.evbus.stats.snapshot()["lanes"]
    (found,) = [lane["state"] for name, lane in lanes.items() if name.endswith(f".{profile}")]
    return str(found)


def deaf(bus: Bus, case: Deaf) -> Inbox:
    """Return a listener that the transport cannot have, and let the profile be as its case wants it."""
    bus.data = {name: value for name, value in {**bus.data, **case.data}.items() if value is not None}
    return Inbox(case.pattern.format(key=bus.name) or bus.kind, **case.options)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lanes wait for consumers longer than any test does."""
    monkeypatch.setattr(supervisor, "SETTLING", 10 * WAIT)


async def test_what_is_sent_right_after_subscribing_arrives(bus: Bus, patient: None) -> None:
    # Where nobody had a queue the event would be sent again.
    first, late = Inbox(bus.kind, name="first"), Inbox(bus.kind, name="late")
    async with bus.process(first) as hub:
        bus.listen(hub, late)
        await send(hub, bus.kind, *range(3))
        assert [await one.numbers(3) for one in (first, late)] == [[0, 1, 2]] * 2


@pytest.mark.can("copies", every=True)
async def test_what_is_sent_right_after_subscribing_arrives_at_each_version(bus: Bus, patient: None) -> None:
    first, late = Inbox(bus.kind, name="first"), Inbox(bus.kind, name="late", per_process=True)
    async with bus.process(first) as hub:
        bus.listen(hub, late)
        await send(hub, bus.kind, 1)
        assert [await one.numbers(1) for one in (first, late)] == [[1]] * 2


async def test_many_may_subscribe_at_once(bus: Bus, patient: None) -> None:
    first = Inbox(bus.kind, name="first")
    many = [Inbox(order(f"{bus.name}-{number}")) for number in range(30)]
    same = [Inbox(bus.kind, name=f"late-{number}") for number in range(10)]
    async with bus.process(first) as hub:
        for inbox in (*many, *same):
            bus.listen(hub, inbox)
        for number, inbox in enumerate(many):
            await send(hub, inbox.wanted, number)
        await send(hub, bus.kind, 99)
        assert [await inbox.numbers(1) for inbox in many] == [[number] for number in range(30)]
        assert [await inbox.numbers(1) for inbox in (first, *same)] == [[99]] * 11


async def test_what_is_sent_before_the_start_waits_for_the_listeners_that_there_are_then(
    bus: Bus, patient: None
) -> None:
    inboxes = [Inbox(bus.kind, name=name) for name in ("one", "other")]
    hub = new_hub(dead_store=bus.folder / "dead.jsonl", drain_timeout=WAIT)
    for inbox in inboxes:
        bus.listen(hub, inbox)
    hub.event.init.send_nowait(bus.kind(1))
    async with running(hub, bus.profiles(0, "fail")):
        assert [await inbox.numbers(1) for inbox in inboxes] == [[1]] * 2


@pytest.mark.can("broker")
async def test_a_program_without_a_loop_may_send_right_after_subscribing_too(bus: Bus, patient: None) -> None:
    first, late = Inbox(bus.kind, name="first"), asyncio.Queue[int]()
    loop = asyncio.get_running_loop()
    bus.prepare(bus.name, "late")

    def program() -> None:
        with api.sync_bus(bus.profiles(0, "fail"), dead_store=bus.folder / "dead.jsonl") as events:
            events.subscribe(
                bus.kind, lambda one: loop.call_soon_threadsafe(late.put_nowait, one.number), "late"
            )
            events.send(bus.kind(1))
            assert asyncio.run_coroutine_threadsafe(late.get(), loop).result(WAIT) == 1

    async with bus.process(first):
        await asyncio.to_thread(program)
        assert await first.numbers(1) == [1]


# A broker that takes its time


@pytest.mark.can("broker")
async def test_a_broker_that_is_slow_to_confirm_is_waited_for(bus: Bus, patient: None) -> None:
    way = bus.proxy(bus.place.port)
    first, late = Inbox(bus.kind, name="first"), Inbox(bus.kind, name="late")
    async with bus.process(first), bus.process(Inbox(order(f"{bus.name}-own")), port=way.port) as hub:
        await asyncio.to_thread(way.freeze, "down")
        bus.listen(hub, late)
        await send(hub, bus.kind, 1)
        await eventually(lambda: lane_state(hub) == "waiting", "the lane waits")
        await asyncio.to_thread(way.thaw)
        assert [await inbox.numbers(1) for inbox in (first, late)] == [[1]] * 2


@pytest.mark.can("broker")
async def test_what_is_never_confirmed_is_waited_for_so_long_and_not_longer(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 0.05)
    way = bus.proxy(bus.place.port)
    other = Inbox(bus.kind, name="other")
    async with bus.process(other), bus.process(port=way.port) as hub:
        mute(way)
        bus.listen(hub, Inbox(bus.kind, name="late"))
        await send(hub, bus.kind, 1)
        assert await other.numbers(1) == [1]


@pytest.mark.can("broker")
async def test_nobody_waits_for_what_is_unsubscribed_before_it_was_confirmed(bus: Bus, patient: None) -> None:
    way = bus.proxy(bus.place.port)
    other, late = Inbox(bus.kind, name="other"), Inbox(bus.kind, name="late")
    async with bus.process(other), bus.process(port=way.port) as hub:
        mute(way)
        bus.listen(hub, late)
        await send(hub, bus.kind, 1)
        await eventually(lambda: lane_state(hub) == "waiting", "the lane waits")
        assert await asyncio.wait_for(hub.event.init.unsubscribe(late.id), WAIT)
        assert await other.numbers(1) == [1]


@pytest.mark.can("broker")
async def test_profiles_that_lead_elsewhere_do_not_wait(bus: Bus, patient: None) -> None:
    way = bus.proxy(bus.place.port)
    other, inside = Inbox(bus.kind, name="other"), Inbox(bus.kind, name="inside", profile="inside")
    async with bus.process(other), AsyncExitStack() as stack:
        hub = new_hub(dead_store=bus.folder / "dead.jsonl", drain_timeout=0.1)
        profiles = bus.profiles(way.port, "fail")
        profiles[bus.place.kit.provider]["straight"] = bus.profiles(0, "fail")[bus.place.kit.provider][
            "default"
        ]
        await stack.enter_async_context(running(hub, {**profiles, "internal": {"inside": {}}}))
        mute(way)
        late = Inbox(bus.kind, name="late")
        bus.listen(hub, late)
        inside.listen(hub)
        await hub.event.init.send(bus.kind(0))
        await hub.event.init.send(bus.kind(1), profile="straight")
        await hub.event.init.send(bus.kind(2), profile="inside")
        assert await other.numbers(1) == [1]
        assert await inside.numbers(1) == [2]
        assert lane_state(hub) == "waiting"
        await hub.event.init.unsubscribe(late.id)
        assert await other.numbers(1) == [0]


def mute(way: Any) -> None:
    """Let nothing come back over connections that are made from now on."""

    def silence() -> Callable[[bytes], bytes]:
        return lambda _: b""

    way.filter("down", silence)


@pytest.mark.can("broker")
async def test_another_profile_of_the_same_broker_waits_as_well(bus: Bus, patient: None) -> None:
    first, late = Inbox(bus.kind, name="first", profile="in"), Inbox(bus.kind, name="late", profile="in")
    hub = new_hub(dead_store=bus.folder / "dead.jsonl", drain_timeout=WAIT)
    bus.listen(hub, first)
    data = bus.profiles(0, "fail")[bus.place.kit.provider]["default"]
    async with running(hub, {bus.place.kit.provider: {"in": data, "out": data}}):
        bus.listen(hub, late)
        await hub.event.init.send(bus.kind(1), profile="out")
        assert [await inbox.numbers(1) for inbox in (first, late)] == [[1]] * 2


# What cannot be listened to


@pytest.mark.can(case="deaf")
async def test_what_cannot_be_listened_to_is_refused_in_the_call_as_at_the_start(
    bus: Bus, case: Deaf, patient: None, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, hub = deaf(bus, case), new_hub()
    inbox.listen(hub)
    with pytest.raises(case.problem, match=case.said.format(key=bus.name)) as refused:
        async with running(hub, bus.profiles(0, "fail")):
            pass
    async with bus.process() as hub:
        if case.problem is ConnectFailed:
            # Only the broker knows, who is asked for it.
            inbox.listen(hub)
            with pytest.raises(ConnectFailed) as later:
                await hub.event.init.ready()
            assert str(later.value) in caplog.text
        else:
            with pytest.raises(case.problem) as later:
                inbox.listen(hub)
            assert hub.event.init.subscriptions() == []
        assert str(later.value) == str(refused.value)


@pytest.mark.can("stomp")
async def test_what_depends_on_the_broker_is_told_when_it_has_answered(bus: Bus) -> None:
    way = bus.proxy(bus.place.port)
    way.refuse()
    bus.data = {"destination": "/queue/{routing_key}"}
    async with bus.process(port=way.port, first_connect="wait") as hub:
        bus.listen(hub, Inbox(bus.kind))
        await asyncio.to_thread(way.accept)
        with pytest.raises(ProfileError, match="would share them"):
            await hub.event.init.ready()


@pytest.mark.can("amqp1", "rabbitmq")
async def test_what_the_broker_refuses_is_told_and_waited_for_no_longer(
    bus: Bus, patient: None, caplog: pytest.LogCaptureFixture
) -> None:
    first, refused = Inbox(bus.kind, name="first"), Inbox(bus.kind, name="nowhere")
    async with bus.process(first) as hub:
        refused.listen(hub)
        await send(hub, bus.kind, 1)
        assert await first.numbers(1) == [1]
        assert hub.event.init.subscriptions()[1]["listening"] is False
    assert f"takes nothing more of {bus.name}" in caplog.text
