"""Consumers in this process: groups, copies, what waits and what comes again."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.kit.weight import Weight
from evbus.engine.wire.memory import queues as ingress
from evbus.engine.wire.memory.groups import InternalProfile, Subscribers
from evbus.errors import BusFull, ProfileError
from evbus.types import Delivery, Envelope, Subscription
from tests.evbus.kit import WAIT, new_hub, running
from tests.evbus.kit import bodies as bodies_of
from tests.evbus.rig import turns, until

CONTEXTS: dict[str, Any] = {"internal": {"p": {}}}


class Room:
    """Groups, and consumers that keep what they get."""

    def __init__(self) -> None:
        self.weight = Weight()
        self.subscribers = Subscribers(self.weight)
        self.groups = self.subscribers.groups

    def join(self, name: str = "e", **wanted: Any) -> tuple[Any, list[Delivery]]:
        got: list[Delivery] = []
        wanted = {"durable": False, **wanted}
        return self.subscribers.attach(Subscription(name=name, **wanted), got.extend), got

    def put(self, *bodies: str, name: str = "e") -> None:
        for subscriber in self.subscribers.get(name, []):
            subscriber.put([Envelope("p", name, body.encode()) for body in bodies], len("".join(bodies)))


def bodies(got: list[Delivery]) -> str:
    return "".join(delivery.envelope.body.decode() for delivery in got)


def test_groups_get_each_event_and_the_members_of_one_share_it() -> None:
    room = Room()
    (_, one), (_, other), (_, alone) = room.join(group="g"), room.join(group="g"), room.join(group="h")
    room.put(*"abcd")
    assert (bodies(one), bodies(other), bodies(alone)) == ("ac", "bd", "abcd")


def test_copies_for_processes_are_groups_of_their_own() -> None:
    room = Room()
    got = [room.join(group="g", per_process=True, durable=True)[1] for _ in range(3)]
    room.put("a", "b")
    assert [bodies(each) for each in got] == ["ab"] * 3


def test_a_consumer_gets_no_more_than_it_may_have_unsettled() -> None:
    room = Room()
    _, got = room.join(prefetch=2)
    room.put(*"abcd")
    assert bodies(got) == "ab"
    assert room.subscribers.held() == 4
    got[0].ack()
    got[1].ack()
    assert bodies(got) == "abcd"
    got[2].reject()
    got[3].reject()
    assert room.subscribers.held() == 0


@pytest.mark.parametrize("most", [2, 4, 10, 40])
def test_one_whose_others_are_under_way_for_long_gets_more(most: int) -> None:
    room = Room()
    _, got = room.join(prefetch=most)
    room.put(*(["x"] * most * 4))
    # One place, or one of each sixteen, is free again and again, and the others never.
    free = max(1, most // 16)
    for _ in range(3):
        count = len(got)
        for delivery in got[-free:]:
            delivery.ack()
        assert len(got) == count + free


def test_one_that_is_full_leaves_events_to_others() -> None:
    room = Room()
    (_, full), (_, free) = room.join(prefetch=1), room.join(prefetch=10)
    room.put(*"abcd")
    assert (bodies(full), bodies(free)) == ("a", "bcd")


def test_what_is_put_back_comes_again_before_the_others_and_says_so() -> None:
    room = Room()
    _, got = room.join(prefetch=1)
    room.put(*"ab")
    for count in (1, 2):
        got[-1].reject(requeue=True)
        assert bodies(got[-1:]) == "a"
        assert (got[-1].redelivered, got[-1].delivery_count) == (True, count)
    got[-1].ack()
    assert (bodies(got[-1:]), got[-1].redelivered, got[-1].delivery_count) == ("b", False, 0)


def test_settling_twice_does_nothing() -> None:
    room = Room()
    _, got = room.join(prefetch=1)
    room.put(*"ab")
    got[0].reject(requeue=True)
    got[0].ack()
    assert bodies(got) == "aa"
    got[1].ack()
    got[1].reject(requeue=True)
    assert bodies(got) == "aab"


def test_what_one_leaves_unsettled_is_for_the_others_in_order() -> None:
    room = Room()
    leaving, first = room.join(prefetch=3)
    room.put(*"abcde")
    _, other = room.join(prefetch=9)
    assert (bodies(first), bodies(other)) == ("abc", "de")
    first[0].ack()
    leaving.end()
    leaving.end()
    assert bodies(other) == "debc"
    first[1].ack()  # too late, and harmless
    assert bodies(other) == "debc"


def test_one_that_is_paused_gets_nothing_more_and_may_settle_what_it_has() -> None:
    room = Room()
    member, got = room.join(prefetch=2)
    room.put("a")
    member.pause()
    room.put("b")
    got[0].ack()
    assert bodies(got) == "a"
    _, other = room.join()
    assert bodies(other) == "b"


def test_the_last_one_ends_a_group_that_is_not_durable() -> None:
    room = Room()
    member, _ = room.join(prefetch=1)
    room.put(*"abc")
    member.end()
    assert (room.groups, room.subscribers) == ({}, {})


def test_a_durable_group_keeps_what_comes_while_nobody_is_there() -> None:
    room = Room()
    member, got = room.join(durable=True, prefetch=1)
    room.put("a", "b")
    member.end()
    room.put("c")
    assert room.subscribers.held() == 0  # nobody is there to wait for
    _, again = room.join(durable=True)
    assert (bodies(got), bodies(again)) == ("a", "abc")
    assert [delivery.redelivered for delivery in again] == [True, False, False]


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_closed_hands_over_what_waits_and_what_comes(durable: bool) -> None:
    room, lost = Room(), list[str]()
    member, got = room.join(durable=durable, prefetch=1)
    room.put(*"abc")
    room.subscribers.close(lambda _, events: lost.extend(event.body.decode() for event in events))
    assert lost == ["b", "c"]
    member.end()
    assert sorted(lost) == ["a", "b", "c"]
    room.put("d")
    assert sorted(lost) == ["a", "b", "c", "d"]
    assert bodies(got) == "a"
    _, again = room.join(durable=durable)
    room.put("e")
    assert bodies(again) == "e"


def test_a_subscription_without_a_name_is_refused() -> None:
    with pytest.raises(ProfileError) as caught:
        Room().join("")
    assert str(caught.value) == "a subscription to internal events has a name, the routing key of the events"


async def test_who_publishes_waits_while_too_many_wait() -> None:
    room = Room()
    _, got = room.join(prefetch=1)
    (group,) = room.groups.values()
    room.put(*"abc")
    waiting = asyncio.ensure_future(group.room(2))
    await asyncio.sleep(0)
    assert not waiting.done()
    got[0].ack()
    await asyncio.wait_for(waiting, WAIT)


async def test_who_publishes_does_not_wait_for_a_group_that_has_ended_or_was_closed() -> None:
    for end in (
        lambda room, member: member.end(),
        lambda room, _: room.subscribers.close(lambda *_: None),
    ):
        room = Room()
        member, _ = room.join(prefetch=1)
        (group,) = room.groups.values()
        room.put(*"abc")
        waiting = asyncio.ensure_future(group.room(2))
        await asyncio.sleep(0)
        end(room, member)
        await asyncio.wait_for(waiting, WAIT)


async def test_what_waits_for_nobody_holds_nobody_back_and_the_oldest_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ingress, "MOST", 100)
    monkeypatch.setattr(ingress, "UNSETTLED", 10)
    hub, got = new_hub(), list[Delivery]()
    wanted = Subscription(name="k", durable=True)

    async with running(hub, {"internal": {"p": {}}}):
        ctx = SimpleNamespace(name="p", profile=InternalProfile())
        hub.egress.internal.attach(ctx, wanted, got.extend).end()
        for number in range(250):
            await asyncio.wait_for(hub.evbus.broker.put(routing_key="k", body=number, profile="p"), WAIT)
        await until(lambda: not hub.evbus.stats.snapshot()["bus"]["queued"])
        (lane,) = hub.evbus.stats.snapshot()["lanes"].values()
        assert (lane["accepted"], lane["delivered"], lane["dropped"]) == (250, 100, 150)
        member = hub.egress.internal.attach(ctx, wanted, got.extend)
        assert [delivery.envelope.body for delivery in got] == [b"%d" % number for number in range(150, 250)]
        for delivery in got:
            delivery.ack()
        member.end()
    assert [message for message in caplog.messages if "takes from" in message] == [
        "nobody takes from the internal queue 'k', which holds 100 events: its oldest are dropped"
    ]


# Bytes


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 5)),
            st.tuples(st.just("join"), st.integers(1, 20)),
            st.tuples(st.just("ack"), st.integers(0, 30)),
            st.tuples(st.just("requeue"), st.integers(0, 30)),
            st.tuples(st.just("leave"), st.integers(0, 3)),
            st.tuples(st.just("trim"), st.integers(0, 8)),
            st.tuples(st.just("close"), st.just(0)),
            st.tuples(st.just("resume"), st.just(0)),
            st.tuples(st.just("recount"), st.just(0)),
            st.tuples(st.just("watch"), st.integers(0, 1)),
        ),
        max_size=40,
    ),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_what_waits_and_what_is_not_settled_is_weighed(program: list[tuple[str, int]], durable: bool) -> None:
    room, members = Room(), list[tuple[Any, list[Delivery]]]()
    for serial, (what, number) in enumerate(program, 1):
        if what == "recount":
            room.weight.recount()
        elif what == "watch":
            room.weight.watch(number)
        else:
            step(room, members, what, number, serial, durable)
        waiting = [event for group in room.groups.values() for event in group.waiting]
        with_members = [event for member, _ in members for event in member._unsettled.values()]
        there = sum(len(event.body) for event in waiting + with_members)
        # What is settled is counted when somebody asks, or waits for it.
        assert room.weight.size >= there
        if what == "recount" or room.weight.floor or not room.weight.loose:
            assert room.weight.size == there
        idle = [event for group in room.groups.values() if not group.wanted for event in group.waiting]
        assert room.weight.idle == sum(len(event.body) for event in idle)
    for member, _ in members:
        member.end()
    waiting = [event for group in room.groups.values() for event in group.waiting]
    room.weight.recount()
    assert room.weight.size == sum(len(event.body) for event in waiting)


def step(
    room: Room, members: list[tuple[Any, list[Delivery]]], what: str, number: int, serial: int, durable: bool
) -> None:
    if what == "put":
        room.put(*(["x" * serial] * number))
    elif what == "join":
        members.append(room.join(prefetch=number, durable=durable))
    elif what in ("ack", "requeue"):
        for _, got in members:
            settled = got[:number]
            del got[:number]
            for delivery in settled:
                if what == "ack":
                    delivery.ack()
                else:
                    delivery.give_back()
    elif what == "leave" and members:
        members.pop(number % len(members))[0].end()
    elif what == "trim":
        for group in room.groups.values():
            group.trim(number)
    elif what == "close":
        room.subscribers.close(lambda group, events: None)
    elif what == "resume":
        room.subscribers.resume()


async def test_listeners_that_have_too_many_bytes_hold_back_who_sends() -> None:
    hub, got = new_hub(queue_bytes=10_000), list[Delivery]()
    async with running(hub, CONTEXTS):
        ctx = SimpleNamespace(name="p", profile=InternalProfile())
        member = hub.egress.internal.attach(ctx, Subscription(name="k", durable=False), got.extend)
        for number in range(10):
            await asyncio.wait_for(put(hub, "k", number), WAIT)
        with pytest.raises(BusFull, match=r"10000 bytes of at most 10000 \(queue_bytes\)"):
            hub.evbus.broker.put_nowait(routing_key="k", body=BODY, profile="p")
        waits = asyncio.ensure_future(put(hub, "k", 10))
        await turns(20)
        assert not waits.done()
        got[0].ack()
        await asyncio.wait_for(waits, WAIT)
        await until(lambda: len(got) == 11)
        for delivery in got:
            delivery.ack()
        member.end()
        assert hub.connection.WEIGHT.size == 0


BODY = "x" * 998
ENCODED = b'"' + b"x" * 998 + b'"'


async def put(hub: Any, key: str, number: int) -> None:
    await hub.evbus.broker.put(routing_key=key, body=BODY, profile="p")


@pytest.mark.parametrize("where", ["queue", "durable listener"])
async def test_what_nobody_takes_has_half_of_the_bytes_and_gives_way(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub, got = new_hub(queue_bytes=20_000), list[Delivery]()
    async with running(hub, CONTEXTS):
        ctx = SimpleNamespace(name="p", profile=InternalProfile())
        wanted = Subscription(name="k", durable=True)
        if where == "durable listener":
            hub.egress.internal.attach(ctx, wanted, got.extend).end()
        for number in range(50):
            await asyncio.wait_for(put(hub, "k", number), WAIT)
        await until(lambda: not hub.evbus.stats.snapshot()["bus"]["queued"])
        (lane,) = hub.evbus.stats.snapshot()["lanes"].values()
        assert (lane["accepted"], lane["delivered"], lane["dropped"]) == (50, 10, 40)
        assert hub.connection.WEIGHT.size == hub.connection.WEIGHT.idle == 10_000
        if where == "queue":
            assert len(await bodies_of(hub, "k", 10)) == 10
        else:
            member = hub.egress.internal.attach(ctx, wanted, got.extend)
            assert len(got) == 10
            for delivery in got:
                delivery.ack()
            member.end()
        assert hub.evbus.stats.snapshot()["bus"]["local_bytes"] == 0
        assert hub.connection.WEIGHT.idle == 0
    assert "nobody takes from the internal queue 'k', which holds 10 events" in caplog.text


async def test_a_queue_that_somebody_takes_from_holds_back_who_sends() -> None:
    hub = new_hub(queue_bytes=10_000)
    async with running(hub, CONTEXTS):
        queue = await hub.ingress.internal.get("k")
        for number in range(10):
            await asyncio.wait_for(put(hub, "k", number), WAIT)
        waits = asyncio.ensure_future(put(hub, "k", 10))
        await turns(20)
        assert not waits.done()
        assert queue.get_nowait() == ENCODED
        await asyncio.wait_for(waits, WAIT)
        for _ in range(10):
            assert await asyncio.wait_for(queue.get(), WAIT) == ENCODED
        assert hub.evbus.stats.snapshot()["bus"]["local_bytes"] == 0
        assert hub.connection.WEIGHT.idle == 0


async def test_a_generator_of_deliveries_gets_what_comes_and_gives_back_what_is_unsettled() -> None:
    hub = new_hub()
    wanted = Subscription(name="orders", group="g")
    async with running(hub, CONTEXTS):
        async with contextlib.aclosing(hub.evbus.bridge.consume(CONTEXTS, "p", wanted)) as deliveries:
            coming = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(0)
            await hub.evbus.broker.put(routing_key="orders", body=1, profile="p")
            first = await asyncio.wait_for(coming, WAIT)
            assert (first.envelope.body, first.envelope.routing_key) == (b"1", "orders")
            assert hub.egress.internal.held() == 1
        async with contextlib.aclosing(hub.evbus.bridge.consume(CONTEXTS, "p", wanted)) as deliveries:
            again = await asyncio.wait_for(anext(deliveries), WAIT)
            assert (again.envelope.body, again.redelivered) == (b"1", True)
            again.ack()
            assert hub.egress.internal.held() == 0


async def test_what_is_consumed_does_not_go_to_the_queues() -> None:
    hub, got = new_hub(), list[Delivery]()
    async with running(hub, CONTEXTS):
        ctx = SimpleNamespace(name="p", profile=InternalProfile())
        member = hub.egress.internal.attach(ctx, Subscription(name="orders", durable=False), got.extend)
        await hub.evbus.broker.put(routing_key="orders", body=1, profile="p")
        await hub.evbus.broker.put(routing_key="others", body=2, profile="p")
        queue = await hub.ingress.internal.get("others")
        assert await asyncio.wait_for(queue.get(), WAIT) == b"2"
        assert bodies(got) == "1"
        got[0].ack()
        member.end()
        await hub.evbus.broker.put(routing_key="orders", body=3, profile="p")
        queue = await hub.ingress.internal.get("orders")
        assert await asyncio.wait_for(queue.get(), WAIT) == b"3"
