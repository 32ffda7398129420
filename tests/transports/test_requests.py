"""Requests: their replies, and what becomes of those that none comes to."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from evbus.errors import DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope
from tests.transports.asking import OWN, UNKNOWN, answer_to, ask, asking, echoing, serving, waiting
from tests.transports.kit import WAIT, event, eventually
from tests.transports.table import Place

pytestmark = pytest.mark.can("requests")


# Replies


async def test_the_reply_to_a_request_comes_back_as_it_was_sent(transport: Place) -> None:
    kept = {"content-type": "application/json", "a:b": "c\r\nd\\e:f", "x-a": "ä"}
    headers = {**kept, "correlation-id": "its own", "reply-to": "elsewhere", "expiration": "1"}
    async with transport.sending() as send, serving(transport) as server:
        task = asking(send, transport.event(b"question", headers), 20)
        delivery = await server.following()
        request = delivery.envelope
        assert (request.body, request.routing_key) == (b"question", transport.key)
        assert {name: value for name, value in request.headers.items() if name not in OWN} == kept
        assert not {request.headers["correlation-id"], request.headers["reply-to"]} & {"its own", "elsewhere"}
        assert request.headers.get("expiration") != "1"
        await server.reply(request, answer_to(request, bytes(range(256)), **kept))
        delivery.ack()
        reply = await task
        assert (reply.profile, reply.body) == ("orders", bytes(range(256)))
        assert reply.headers == {**kept, "correlation-id": request.headers["correlation-id"]}
        assert waiting(send) == 0


async def test_many_requests_in_flight_get_their_own_replies_in_any_order_without_a_task_each(
    transport: Place,
) -> None:
    count = 1000
    async with transport.sending(**transport.at.window) as send, serving(transport) as server:
        before = len(asyncio.all_tasks())
        request = send.kit.ingress(send.hub).request
        tasks = [
            asyncio.ensure_future(request(send.ctx, transport.event(b"%d" % number), WAIT))
            for number in range(count)
        ]
        deliveries = [await server.following() for _ in range(count)]
        assert waiting(send) == count
        # A few are those of the client library.
        assert len(asyncio.all_tasks()) < before + count + 20
        for delivery in reversed(deliveries):
            await server.answer(delivery, b"re:" + delivery.envelope.body)
        replies = await asyncio.wait_for(asyncio.gather(*tasks), WAIT)
        assert [reply.body for reply in replies] == [b"re:%d" % number for number in range(count)]
        sent = [delivery.envelope.headers for delivery in deliveries]
        assert len({headers["reply-to"] for headers in sent}) == 1
        assert len({headers["correlation-id"] for headers in sent}) == count
        assert (waiting(send), send.connection.connects) == (0, 1)


async def test_bodies_of_any_size_travel_both_ways(transport: Place) -> None:
    async with transport.sending() as send, echoing(transport):
        # RabbitMQ 4.3 ends a connection that sends a frame of 5 MB by STOMP.
        for size in (1, 131_064, 131_065, 3_000_000):
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            found = await asyncio.gather(*(ask(send, transport.event(body)) for _ in range(2)))
            assert [reply.body for reply in found] == [body] * 2


async def test_events_and_requests_go_side_by_side(transport: Place) -> None:
    async with transport.sending() as send, serving(transport) as server:
        task = asking(send, transport.event(b"request"))
        delivery = await server.following()
        assert await send(transport.event(b"event")) == [None]
        other = await server.following()
        assert other.envelope.body == b"event"
        assert not set(OWN) & set(other.envelope.headers)
        other.ack()
        await server.answer(delivery)
        assert (await task).body == b"request"


# No reply


async def test_without_a_reply_a_request_ends_in_time_and_is_not_handled_afterwards(transport: Place) -> None:
    async with transport.sending() as send:
        with pytest.raises(DeliveryTimeout, match=r"within 0\.3 s") as caught:
            await ask(send, transport.event(b"too late"), 0.3)
        assert caught.value.seconds == 0.3
        for seconds in (0, -1.0):
            with pytest.raises(DeliveryTimeout):
                await ask(send, transport.event(b"never sent"), seconds)
        assert waiting(send) == 0
        assert await send(transport.event(b"next")) == [None]
        await eventually(lambda: transport.depth() == 1, "the request expires")
    assert transport.taken() == [b"next"]


async def test_a_reply_that_comes_late_or_for_nobody_is_ignored(
    transport: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with transport.sending() as send, serving(transport) as server:
        early = asking(send, transport.event(b"1"), 1.0)
        first = (await server.following()).envelope
        with pytest.raises(DeliveryTimeout):
            await early
        task = asking(send, transport.event(b"2"))
        second = (await server.following()).envelope
        for reply in (
            answer_to(first, b"late"),
            Envelope("server", "", b"stray", {"correlation-id": "unknown"}),
            Envelope("server", "", b"no id at all"),
            answer_to(second, b"right"),
            answer_to(second, b"twice"),
        ):
            await server.reply(second, reply)
        assert (await task).body == b"right"
        assert waiting(send) == 0
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_server_that_dies_with_a_request_is_a_timeout(transport: Place) -> None:
    async with transport.sending() as send:
        task = asking(send, transport.event(b"1"), 2.0)
        async with serving(transport) as server:
            await server.following()
        with pytest.raises(DeliveryTimeout):
            await task


async def test_a_cancelled_request_is_forgotten_wherever_it_was(transport: Place) -> None:
    async with echoing(transport):
        for turn in range(20):
            async with transport.sending() as send:
                for steps in (turn, 2 * turn):
                    trying = asking(send, transport.event(b"1"))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    trying.cancel()
                    await asyncio.wait({trying})
                assert (await ask(send, transport.event(b"%d" % turn))).body == b"%d" % turn
                assert waiting(send) == 0


async def test_what_cannot_be_carried_is_refused_and_the_rest_is_asked(transport: Place) -> None:
    async with transport.sending() as send, echoing(transport):
        for key, headers, said in transport.at.uncarried:
            if set(OWN) & set(headers):
                continue  # A request has its own.
            with pytest.raises(Rejected, match=re.escape(said)):
                await ask(send, event(key.format(key=transport.key), b"1", headers))
        assert (await ask(send, transport.event(b"fine"))).body == b"fine"


# What goes wrong


async def test_a_connection_that_answers_nothing_but_its_heartbeats_is_given_up_and_the_next_one_works(
    transport: Place, proxy: Any
) -> None:
    way, still = proxy(transport.port), transport.at.still()
    way.filter("down", still)
    data = {transport.at.patience: 1.5, "heartbeat": 2}
    async with transport.sending(port=way.port, **data) as send, echoing(transport):
        assert (await ask(send, transport.event(b"0"))).body == b"0"
        still.begin()
        # Long before its own deadline.
        with pytest.raises(Unavailable):
            await ask(send, transport.event(b"1"), 10 * WAIT)
        assert (await ask(send, transport.event(b"2"))).body == b"2"
        assert send.connection.connects == 2


@pytest.mark.parametrize("how", ["cut", "half_open"])
async def test_a_lost_connection_ends_requests_at_once_and_the_next_ones_work(
    transport: Place, proxy: Any, how: str
) -> None:
    way = proxy(transport.port)
    async with transport.sending(port=way.port, heartbeat=1) as send, serving(transport) as server:
        tasks = [asking(send, transport.event(b"%d" % number)) for number in range(3)]
        for _ in tasks:
            (await server.following()).ack()
        getattr(way, how)()
        for task in tasks:
            with pytest.raises(Unavailable, match=f"profile 'orders': .*{UNKNOWN}"):
                await task
        assert waiting(send) == 0
        again = asking(send, transport.event(b"again"))
        await server.answer(await server.following())
        assert (await again).body == b"again"


async def test_a_request_waits_for_the_connection_as_long_as_it_may(transport: Place, proxy: Any) -> None:
    way = proxy(transport.port)
    async with transport.sending(port=way.port) as send, echoing(transport):
        assert (await ask(send, transport.event(b"before"))).body == b"before"
        way.refuse()
        way.cut()
        await eventually(lambda: send.connection.session is None, "it is lost")
        with pytest.raises(Unavailable, match=f"{transport.kit.provider} profile 'orders': not connected"):
            await ask(send, transport.event(), 0.1)
        tasks = [asking(send, transport.event(b"%d" % number)) for number in range(5)]
        cancelled = asking(send, transport.event())
        await asyncio.sleep(0)
        cancelled.cancel()
        way.accept()
        replies = await asyncio.gather(*tasks)
        assert [reply.body for reply in replies] == [b"%d" % number for number in range(5)]
        assert send.connection.connects == 2


@pytest.mark.parametrize("asked_before", [True, False])
async def test_a_broker_that_stands_still_is_a_timeout(
    transport: Place, proxy: Any, asked_before: bool
) -> None:
    way = proxy(transport.port)
    async with transport.sending(port=way.port) as send, echoing(transport):
        if asked_before:
            assert (await ask(send, transport.event(b"1"))).body == b"1"
        way.freeze()
        with pytest.raises(DeliveryTimeout):
            await ask(send, transport.event(b"2"), 0.3)
        way.thaw()
        assert (await ask(send, transport.event(b"3"))).body == b"3"


# The end


async def test_closing_ends_the_requests_and_leaves_the_connection_to_others(transport: Place) -> None:
    mute = Place(transport.at, transport.node, f"{transport.key}-mute")
    mute.declare()
    async with transport.sending() as neighbour, echoing(transport):
        for begun in (0, 1, 5, 1000):
            async with transport.sending() as send:
                assert send.connection is neighbour.connection
                task = asking(send, mute.event())
                for _ in range(begun):
                    await asyncio.sleep(0)
            for ended in (task, ask(send, transport.event())):
                with pytest.raises(Unavailable, match="closed"):
                    await ended
        assert (await ask(neighbour, transport.event(b"on"))).body == b"on"
        assert neighbour.connection.connects == 1


async def test_without_a_connection_closing_ends_the_requests(transport: Place) -> None:
    async with transport.sending(port=1, first_connect="wait") as send:
        task = asking(send, transport.event())
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="closed"):
        await task
