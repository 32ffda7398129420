"""Consuming: settling, copies, and what a lost connection brings again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.types import Subscription
from tests.transports.kit import WAIT, eventually, new_hub, watched
from tests.transports.table import Place


async def test_an_event_comes_back_as_it_was_sent(transport: Place) -> None:
    transport = Place(transport.at, transport.node, transport.key + transport.at.key_ends)
    sent = transport.event(bytes(range(256)), dict(transport.at.headers))
    async with transport.sending(**transport.at.aging) as send:
        assert await send(sent) == [None]
    async with transport.consuming() as following:
        delivery = await following()
        envelope = delivery.envelope
        assert (envelope.profile, envelope.routing_key) == ("orders", transport.key)
        assert (envelope.body, envelope.headers) == (sent.body, sent.headers)
        assert not delivery.redelivered
        delivery.ack()
    assert transport.depth() == 0


async def test_bodies_of_every_size_come_back_byte_for_byte(transport: Place) -> None:
    frame = 131072 - 8
    sizes = [0, 1, frame - 1, frame, frame + 1, 2 * frame, 1024 * 1024, 3_000_000]
    pattern = bytes(range(256)) * (sizes[-1] // 256 + 1)
    async with transport.sending() as send:
        assert await send(*(transport.event(pattern[:size]) for size in sizes)) == [None] * len(sizes)
    async with transport.consuming() as following:
        for size in sizes:
            delivery = await following()
            assert delivery.envelope.body == pattern[:size]
            delivery.ack()


@pytest.mark.can(every=True)
async def test_what_is_acked_is_gone_and_the_rest_comes_again(transport: Place) -> None:
    async with transport.sending() as send:
        await send(*transport.numbered(6))
    async with transport.consuming() as following:
        found = [await following() for _ in range(6)]
        assert [delivery.envelope.body for delivery in found] == [b"0", b"1", b"2", b"3", b"4", b"5"]
        found[0].ack()
        found[2].ack()
        found[2].reject(requeue=True)  # it is settled, and stays so
        found[3].reject()
        found[4].reject(requeue=True)
        again = await following()
        assert (again.envelope.body, again.redelivered) == (b"4", True)
    async with transport.consuming() as following:
        rest = [await following() for _ in range(3)]
        assert {delivery.envelope.body for delivery in rest} == {b"1", b"4", b"5"}
        assert all(delivery.redelivered for delivery in rest)
        for delivery in rest:
            delivery.ack()
    for delivery in found:
        delivery.ack()  # of a consumer that is gone: it tells nobody
    assert transport.depth() == 0


async def test_no_more_than_prefetch_is_unsettled(transport: Place) -> None:
    async with transport.sending() as send:
        await send(*transport.numbered(5))
    async with transport.consuming(most=2, prefetch=4) as following:
        found = [await following() for _ in range(2)]
        waiting = asyncio.ensure_future(following())
        assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
        found[0].ack()
        assert (await waiting).envelope.body == b"2"


async def test_groups_have_a_copy_each_which_stays_and_their_consumers_share_it(transport: Place) -> None:
    there = asyncio.Semaphore(0)
    one, other = (
        Subscription(name=transport.key, group=group, prefetch=1, on_ready=there.release)
        for group in ("one", "other")
    )
    transport.prepare("one", "other")
    async with transport.sending(topic=True) as send:
        async with (
            transport.listening(one) as first,
            transport.listening(one) as second,
            transport.listening(other) as third,
        ):
            waiting = [asyncio.ensure_future(following()) for following in (first, second, third)]
            for _ in waiting:
                await asyncio.wait_for(there.acquire(), WAIT)
            assert await send(*transport.numbered(2)) == [None, None]
            found = [await each for each in waiting]
            assert {delivery.envelope.body for delivery in found[:2]} == {b"0", b"1"}
            assert found[2].envelope.body == b"0"
            assert {delivery.envelope.routing_key for delivery in found} == {transport.key}
            for delivery in found:
                delivery.ack()
        assert await send(*transport.numbered(1, start=2)) == [None]
    for wanted, left in ((one, [b"2"]), (other, [b"1", b"2"])):
        async with transport.listening(wanted) as following:
            for body in left:
                delivery = await following()
                assert delivery.envelope.body == body
                delivery.ack()


@pytest.mark.can("copies", every=True)
async def test_processes_have_copies_of_their_own_which_end_with_them(transport: Place) -> None:
    there = asyncio.Semaphore(0)
    wanted = Subscription(name=transport.key, per_process=True, on_ready=there.release)
    async with (
        transport.listening(wanted) as one,
        transport.listening(wanted) as two,
        transport.sending(topic=True) as send,
    ):
        waiting = [asyncio.ensure_future(following()) for following in (one, two)]
        for _ in waiting:
            await asyncio.wait_for(there.acquire(), WAIT)
        await send(transport.event(b"1"))
        assert [(await each).envelope.body for each in waiting] == [b"1", b"1"]
        assert not any(queue["exclusive"] for queue in transport.copies())
    await eventually(lambda: not transport.copies(), "both copies are gone")


async def test_what_a_lost_connection_brings_again_alone_can_be_settled(transport: Place, proxy: Any) -> None:
    way = proxy(transport.port)
    async with transport.sending() as send, transport.consuming(port=way.port) as following:
        await send(*transport.numbered(2))
        old = [await following(), await following()]
        ended = watched(old[0])
        assert old[0].origin is old[1].origin
        assert not old[1].gone
        way.cut()
        # It is told although nobody asks for the next delivery meanwhile.
        assert await asyncio.wait_for(ended, WAIT)
        assert all(delivery.gone for delivery in old)
        again = [await following(), await following()]
        assert [delivery.envelope.body for delivery in again] == [b"0", b"1"]
        assert all(delivery.redelivered and not delivery.gone for delivery in again)
        for delivery in old:
            delivery.ack()
        again[0].ack()
        await send(*transport.numbered(1, start=2))
        last = await following()
        assert last.envelope.body == b"2"
    assert last.gone
    last.ack()
    # The second and third were never acknowledged over the connection that they came by last.
    await eventually(lambda: transport.depth() == 2, "they are back")


async def test_lanes_are_told_that_a_consumer_is_away_and_back(transport: Place, proxy: Any) -> None:
    way, there = proxy(transport.port), asyncio.Event()
    async with transport.consuming(port=way.port, on_ready=there.set) as following:
        waiting = asyncio.ensure_future(following())
        await asyncio.wait_for(there.wait(), WAIT)
        (entry,) = transport.hub.connection.SHARED._entries.values()
        consumers = entry.connection.consumers
        assert not consumers
        way.refuse()
        way.cut()
        await eventually(lambda: bool(consumers), "it is away")
        way.accept()
        await eventually(lambda: not consumers, "it is back")
        waiting.cancel()
        await asyncio.wait({waiting})
    assert not consumers


@pytest.mark.can("handover", every=True)
@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_who_pauses_gets_nothing_more_and_settles_what_it_has(transport: Place, kind: str) -> None:
    transport.of_type(kind)
    async with transport.sending() as send:
        assert await send(*transport.numbered(6)) == [None] * 6
    async with transport.consuming(most=4) as first, transport.consuming(hub=new_hub()) as second:
        # All four are here: one that is under way at a pause stays with RabbitMQ 3's link until that ends.
        one, two, *others = [await first() for _ in range(4)]
        assert one.origin is not None
        one.origin.pause()
        for other in others:
            other.give_back()
        seen = set()
        while len(seen) < 4:
            delivery = await second()
            seen.add(delivery.envelope.body)
            delivery.ack()
        assert seen == {b"2", b"3", b"4", b"5"}
        one.ack()
        two.reject(requeue=True)
        delivery = await second()
        assert delivery.envelope.body == b"1"
        delivery.ack()
        assert not one.gone
    assert transport.depth() == 0


async def test_what_was_begun_before_a_pause_is_settled_though_nothing_more_comes(transport: Place) -> None:
    async with transport.sending() as send:
        assert await send(*transport.numbered(2)) == [None] * 2
    # There is room for more.
    async with transport.consuming(most=10) as following:
        taken = [await following(), await following()]
        assert taken[0].origin is not None
        taken[0].origin.pause()
        for delivery in taken:
            delivery.ack()
    assert transport.depth() == 0


@pytest.mark.can("leave")
async def test_closing_gives_back_what_is_unsettled_and_leaves_the_connection_to_others(
    transport: Place,
) -> None:
    async with transport.sending() as send, transport.consuming(most=4) as first:
        await send(*transport.numbered(10))
        (await first()).ack()
        for _ in range(5):
            async with transport.consuming(most=3) as second:
                delivery = await second()
                provider = transport.kit.provider
                states = transport.hub.connection.init.states()
                assert sorted(states) == [f"{provider}.orders", f"{provider}.orders.consumers"]
                assert {state["connects"] for state in states.values()} == {1}
        delivery.ack()
        assert await send(transport.event(b"10")) == [None]
        seen: set[int] = set()
        while seen != set(range(1, 11)):
            delivery = await first()
            delivery.ack()
            seen.add(int(delivery.envelope.body))
    assert (transport.hub.connection.init.states(), transport.depth()) == ({}, 0)


@pytest.mark.can("leave")
async def test_who_leaves_a_queue_that_is_busy_leaves_the_connection_and_the_rest_to_others(
    transport: Place,
) -> None:
    async with transport.sending() as send, transport.consuming(most=1) as first:
        await send(*transport.numbered(300))
        held = await first()
        left = set(range(300)) - {int(held.envelope.body)}
        async with transport.consuming(most=20) as second:
            for _ in range(100):
                delivery = await second()
                delivery.ack()
                left.discard(int(delivery.envelope.body))
        held.ack()
        while left:
            delivery = await first()
            delivery.ack()
            left.discard(int(delivery.envelope.body))
        assert {state["connects"] for state in transport.hub.connection.init.states().values()} == {1}
    assert transport.depth() == 0


@pytest.mark.can("listed")
async def test_an_iteration_that_is_cancelled_leaves_the_queue(transport: Place) -> None:
    async with transport.consuming() as following:
        waiting = asyncio.ensure_future(following())
        await eventually(transport.consumers, "it consumes")
        waiting.cancel()
        await asyncio.wait({waiting})
    assert (transport.hub.connection.init.states(), transport.consumers()) == ({}, 0)
