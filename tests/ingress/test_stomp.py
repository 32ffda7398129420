"""The STOMP destination against real brokers, and against one that a test controls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.errors import DeliveryError, Rejected, Unavailable
from evbus.ingress import stomp as plugin
from evbus.types import Subscription
from tests.connection.stomp_kit import (
    WAIT,
    broker,
    consuming,
    event,
    frame,
    frame_of,
    login,
    new_hub,
    opened,
    publish,
    url,
)

PLUGIN: Any = plugin  # its functions take the hub, which no type checker knows


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("destination", ["/exchange/nope/{routing_key}", "/nonsense/{routing_key}"])
async def test_a_refused_destination_is_a_rejection_of_that_event_with_the_reason(
    hub: Any, rabbitmq: Any, unique: str, destination: str
) -> None:
    async with opened(hub, url=url(rabbitmq), destination=destination) as ctx:
        (alone,) = await publish(hub, ctx, event(unique, b"1"))
        assert isinstance(alone, Rejected)
        assert "no exchange 'nope'" in str(alone) or "not a valid destination" in str(alone)
        assert "\n" not in str(alone)
        _, back = hub.ingress.stomp.ready(ctx)
        await asyncio.wait_for(back, WAIT)
        # RabbitMQ does not say which of several it was: one error for all makes the lane send each alone.
        both = await publish(hub, ctx, event(unique, b"2"), event(unique, b"3"))
        assert both[0] is both[1]
        assert type(both[0]) is DeliveryError


class Receipts:
    """A broker that gives receipts when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, str], bytes]] = []
        self.arrived = asyncio.Semaphore(0)
        self.writer: Any = None
        self.answers = False

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await login(reader, writer)
        self.writer = writer
        while True:
            command, headers, body = await frame_of(reader)
            if command == "SEND":
                self.sent.append((headers, body))
                self.arrived.release()
            if self.answers or command != "SEND":
                self.receipt(headers["receipt"])

    async def got(self, count: int) -> None:
        for _ in range(count):
            await asyncio.wait_for(self.arrived.acquire(), WAIT)

    def receipt(self, number: str) -> None:
        self.writer.write(frame("RECEIPT", receipt_id=number))

    def numbers(self) -> list[str]:
        return [headers["receipt"] for headers, _ in self.sent]


async def test_headers_that_activemq_reads_break_no_connection_and_decide_nothing(
    hub: Any, activemq: Any, unique: str
) -> None:
    obeyed = {"JMSPriority": "9", "JMSExpiration": "1", "JMSXGroupID": "g", "transformation": "t"}
    mine = {"timestamp": "noon", "message-id": "m-1", "expiration": "soon", "tenant": "shop"}
    async with opened(hub, url=url(activemq)) as ctx:
        sent = event(unique, b"1", {**obeyed, **mine, "content-type": "a/b"})
        assert await publish(hub, ctx, sent, event(unique, b"2", {"timestamp": "17"})) == [None, None]
    async with consuming(hub, Subscription(name=unique), url=url(activemq)) as following:
        first, second = await following(), await following()
        left = {"timestamp": "noon", "message-id": "m-1", "tenant": "shop", "content-type": "a/b"}
        assert first.envelope.headers == left
        assert second.envelope.headers["timestamp"] == "17"
        second.ack()
        first.ack()


async def test_keys_that_activemq_takes_apart_are_refused_and_reach_no_other_queue(
    hub: Any, activemq: Any, unique: str
) -> None:
    keys = (f"{unique},other", f"{unique}?x=y", f"{unique} ", f"{unique}:a b/*.>")
    async with opened(hub, url=url(activemq)) as ctx:
        outcomes = await publish(hub, ctx, *(event(key, b"{}") for key in keys))
        assert [type(outcome) for outcome in outcomes] == [Rejected] * 3 + [type(None)]
    assert activemq.queue_depth(unique) == 0


@pytest.mark.parametrize("headers", [{"timestamp": "noon"}, {"type": "t" * 256}])
async def test_values_that_rabbitmq_cannot_take_are_refused_before_they_are_sent(
    hub: Any, each_rabbitmq: Any, unique: str, headers: dict[str, str]
) -> None:
    async with opened(hub, url=url(each_rabbitmq)) as ctx:
        good, bad = (
            event(unique, b"1", {"timestamp": "17", "type": "t" * 255}),
            event(unique, b"2", headers),
        )
        outcomes = await publish(hub, ctx, bad, good)
        assert [type(outcome) for outcome in outcomes] == [Rejected, type(None)]
        assert ctx.state.connection.connects == 1
    async with consuming(hub, Subscription(name=unique), url=url(each_rabbitmq)) as following:
        delivery = await following()
        assert delivery.envelope.headers.items() >= good.headers.items()
        delivery.ack()


async def test_delivered_means_a_receipt_of_its_own() -> None:
    server = Receipts()
    async with (
        broker(server.talk) as port,
        opened(hub := new_hub(), url=f"stomp://127.0.0.1:{port}") as ctx,
    ):
        waiting = asyncio.ensure_future(publish(hub, ctx, event("k", b"1"), event("k", b"2")))
        await server.got(2)
        server.receipt(server.numbers()[1])
        server.writer.write(
            frame("ERROR", "no room for it", receipt_id=server.numbers()[0], message="refused")
        )
        first, second = await waiting
        assert isinstance(first, Rejected)
        assert str(first) == "the broker refused it: refused: no room for it"
        assert second is None
        # A broker that names the frame and goes on, as ActiveMQ does, is no reason to leave.
        server.answers = True
        assert await publish(hub, ctx, event("k", b"3")) == [None]
        assert ctx.state.connection.connects == 1


async def test_without_receipts_an_event_is_unavailable_and_not_sent_twice_over_one_connection() -> None:
    server = Receipts()
    async with (
        broker(server.talk) as port,
        opened(hub := new_hub(), url=f"stomp://127.0.0.1:{port}", receipt_timeout=0.05) as ctx,
    ):
        events = [event("k", b"same"), event("k", b"other")]
        twins = [*events, events[0].replace(), events[0].replace()]
        outcomes = await publish(hub, ctx, *twins)
        assert all("receipt_timeout" in str(outcome) for outcome in outcomes)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        server.receipt(server.numbers()[0])
        again = asyncio.ensure_future(publish(hub, ctx, *(one.replace() for one in twins)))
        for number in server.numbers()[1:]:
            server.receipt(number)
        assert await again == [None] * 4
        assert len(server.sent) == 4
        server.answers = True
        assert await publish(hub, ctx, events[0]) == [None]
        assert len(server.sent) == 5


async def test_a_cancelled_event_is_still_in_flight_and_its_receipt_is_taken_next_time() -> None:
    server = Receipts()
    async with (
        broker(server.talk) as port,
        opened(hub := new_hub(), url=f"stomp://127.0.0.1:{port}") as ctx,
    ):
        one = event("k", b"1")
        waiting = asyncio.ensure_future(publish(hub, ctx, one))
        await server.got(1)
        waiting.cancel()
        await asyncio.wait({waiting})
        again = asyncio.ensure_future(publish(hub, ctx, one))
        await asyncio.sleep(0)
        server.receipt(server.numbers()[0])
        assert await again == [None]
        assert len(server.sent) == 1


async def test_no_more_than_the_window_is_in_flight() -> None:
    server = Receipts()
    async with (
        broker(server.talk) as port,
        opened(hub := new_hub(), url=f"stomp://127.0.0.1:{port}", window=2, receipt_timeout=WAIT) as ctx,
    ):
        waiting = asyncio.ensure_future(publish(hub, ctx, *(event("k", b"%d" % at) for at in range(5))))
        for sent in range(2, 6):
            await server.got(2 if sent == 2 else 1)
            assert len(server.sent) == sent
            server.receipt(server.numbers()[sent - 2])
        server.receipt(server.numbers()[4])
        assert await waiting == [None] * 5
