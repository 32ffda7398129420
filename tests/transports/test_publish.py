"""Publishing: what arrives, what is refused, and what becomes of events whose connection is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import ConnectionLost, Rejected, Unavailable
from tests.ingress.poison_kit import GOOD, breaking, send_among_good_ones
from tests.transports.kit import WAIT, event, eventually
from tests.transports.table import Place


async def test_events_arrive_in_their_order(transport: Place) -> None:
    async with transport.sending(**transport.at.window) as send:
        assert await send(*transport.numbered(1000)) == [None] * 1000
        assert await send() == []
        await transport.kit.ingress(send.hub).publish(send.ctx, transport.key, b"last", {"a": "b"})
    assert transport.taken() == [*(b"%d" % number for number in range(1000)), b"last"]


@pytest.mark.can(case="uncarried")
async def test_what_cannot_be_carried_is_refused_before_it_is_sent_and_the_rest_arrives(
    transport: Place, case: tuple[str, dict[str, str], str]
) -> None:
    key, headers, said = case
    async with transport.sending() as send:
        bad = event(key.format(key=transport.key), b"2", headers)
        one, refused, three = await send(transport.event(b"1"), bad, transport.event(b"3"))
        assert (one, three) == (None, None)
        assert isinstance(refused, Rejected)
        assert said in str(refused)
        assert "\n" not in str(refused)
        assert send.connection.connects == 1
    assert transport.taken() == [b"1", b"3"]


async def test_a_lost_connection_leaves_no_event_without_an_outcome_and_they_go_on(
    transport: Place, proxy: Any
) -> None:
    way = proxy(transport.port)
    async with transport.sending(port=way.port) as send:
        assert await send(transport.event(b"1")) == [None]
        way.freeze("down")
        before = way.bytes["up"]
        waiting = asyncio.ensure_future(send(*transport.numbered(2)))
        await eventually(lambda: way.bytes["up"] > before, "they are sent")
        way.refuse()
        way.cut()
        outcomes = await waiting
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost, ConnectionLost]
        assert outcomes[0] is outcomes[1]
        assert transport.at.lost in str(outcomes[0])
        # While the broker is away.
        (outcome,) = await send(transport.event(b"2"))
        assert isinstance(outcome, Unavailable)
        why, back = transport.kit.ingress(send.hub).ready(send.ctx)
        assert "not connected" in why
        way.thaw("down")
        way.accept()
        await asyncio.wait_for(back, WAIT)
        assert await send(transport.event(b"2")) == [None]


async def test_an_event_that_breaks_the_connection_is_dead_after_its_attempts_and_the_others_arrive(
    transport: Place, proxy: Any, tmp_path: Path
) -> None:
    """The proxy is a broker that cannot take one body, with the events around it in one batch."""
    way = proxy(transport.port)
    way.filter("up", breaking)
    profile = {"url": transport.url(way.port), **transport.queue}
    await send_among_good_ones(tmp_path, transport.kit.provider, profile, transport.key)
    taken = transport.taken()
    assert list(dict.fromkeys(taken)) == [b"%d" % number for number in range(GOOD)]
    # The first may have been sent alone, and its confirm be lost with the connection.
    assert taken[taken.count(b"0") :] == [b"%d" % number for number in range(1, GOOD)]


async def test_a_connection_that_answers_nothing_but_its_heartbeats_is_given_up_for_a_new_one(
    transport: Place, proxy: Any
) -> None:
    way, still = proxy(transport.port), transport.at.still()
    way.filter("down", still)
    async with transport.sending(port=way.port, **{transport.at.patience: 1.5, "heartbeat": 2}) as send:
        assert await send(*transport.numbered(1)) == [None]
        still.begin()
        left = transport.numbered(2, start=1)
        while send.connection.connects == 1:
            outcomes = await send(*left)
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
            assert not any(isinstance(outcome, ConnectionLost) for outcome in outcomes)
            await send.ready()
        assert "answer" in send.connection.last_error
        assert await send(*left) == [None, None]
        assert send.connection.connects == 2
    # The broker had taken those that it could not say so of.
    assert transport.depth() == 5


async def test_a_broker_that_does_not_read_does_not_stop_the_loop(transport: Place, proxy: Any) -> None:
    way = proxy(transport.port)
    async with transport.sending(port=way.port, **{transport.at.patience: 0.3}) as send:
        await send.deliver(transport.event())
        way.freeze()
        events = [transport.event(bytes(100_000)) for _ in range(200)]
        assert {type(outcome) for outcome in await send(*events)} == {Unavailable}
        way.thaw()
        await send.deliver(*events)
    # Where it is given up for a new connection, what was in flight is sent again.
    assert transport.depth() == 201 or send.connection.connects > 1


async def test_cancelled_anywhere_an_event_is_sent_exactly_once_over_one_connection(transport: Place) -> None:
    async with transport.sending(window=50) if transport.at.window else transport.sending() as send:
        for turn in range(100):
            events = [transport.event(b"%d.%d" % (turn, number)) for number in range(10)]
            trying = asyncio.ensure_future(send.ctx.state.publish(events))
            for _ in range(turn % 25):
                await asyncio.sleep(0)
            trying.cancel()
            await asyncio.wait({trying})
            outcomes = [] if trying.cancelled() else trying.result()
            if outcomes != [None] * 10:
                assert await send(*events) == [None] * 10
        assert send.connection.connects == 1
    assert transport.depth() == 1000


@pytest.mark.can("listed")
async def test_a_permission_that_is_missing_is_waited_for(transport: Place) -> None:
    node, user = transport.node, transport.key
    node.declare_queue(user)
    node.add_user(user, "hunter22-hunter22")
    node.set_permissions(user, configure="", write="", read="")
    async with transport.sending(user=f"{user}:hunter22-hunter22", first_connect="wait") as send:
        (outcome,) = await send(transport.event())
        assert isinstance(outcome, Unavailable)
        assert transport.at.denied in str(outcome)
        assert "hunter22" not in f"{outcome!r} {send.ctx.state!r}"
        node.set_permissions(user)
        await send.deliver(transport.event())
    node.delete_user(user)
    assert transport.depth() == 1
