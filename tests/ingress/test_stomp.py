"""The STOMP destination against real brokers, and against one that a test controls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.errors import ConnectionLost, DeliveryError, Rejected, Unavailable
from evbus.ingress import stomp as plugin
from evbus.types import Subscription
from tests.connection.stomp_kit import (
    WAIT,
    broker,
    consuming,
    context,
    event,
    frame,
    frame_of,
    login,
    new_hub,
    opened,
    publish,
    url,
)
from tests.ingress.amqp_kit import kill
from tests.ingress.poison_kit import GOOD, breaking, send_among_good_ones
from tests.ingress.still_kit import Still

PLUGIN: Any = plugin  # its functions take the hub, which no type checker knows


@pytest.fixture(scope="session", params=["rabbitmq", "activemq"])
def node(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_the_plugin_declares_its_provider_and_profile() -> None:
    hub = new_hub()
    assert hub.ingress.stomp.ACCT == ["stomp"]
    assert hub.ingress.stomp.PROFILE.__name__ == "Profile"


def test_close_without_open_is_nothing() -> None:
    asyncio.run(PLUGIN.close_(None, context(url="stomp://h")))


def test_events_arrive_in_their_order(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), window=100) as ctx:
            events = [event(unique, b"%d\0" % number) for number in range(2500)]
            assert await publish(hub, ctx, *events) == [None] * 2500
            await hub.ingress.stomp.publish(ctx, unique, b"last", {"a": "b"})

    asyncio.run(main())
    assert node.queue_depth(unique) == 2501


def test_what_cannot_be_carried_is_refused_and_the_rest_is_sent(node: Any, unique: str) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            outcomes = await publish(
                hub, ctx, event(unique, b"1"), event(unique, b"2", {"a": "\0"}), event(unique, b"3")
            )
            assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, type(None)]

    asyncio.run(main())
    assert node.queue_depth(unique) == 2


@pytest.mark.parametrize("destination", ["/exchange/nope/{routing_key}", "/nonsense/{routing_key}"])
def test_a_refused_destination_is_a_rejection_of_that_event_with_the_reason(
    rabbitmq: Any, unique: str, destination: str
) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_a_lost_connection_makes_unavailable_and_events_go_on_afterwards(
    node: Any, proxy: Any, unique: str
) -> None:
    way = proxy(node.stomp_port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node, way.port)) as ctx:
            assert await publish(hub, ctx, event(unique, b"1")) == [None]
            way.freeze("down")
            waiting = asyncio.ensure_future(ctx.state.publish([event(unique, b"2"), event(unique, b"3")]))
            await asyncio.sleep(0)
            assert len(ctx.state.connection.session.receipts) == 2
            way.cut()
            outcomes = await waiting
            assert [isinstance(outcome, Unavailable) for outcome in outcomes] == [True, True]
            way.thaw("down")
            found = hub.ingress.stomp.ready(ctx)
            if found is not None:
                await asyncio.wait_for(found[1], WAIT)
            assert await publish(hub, ctx, event(unique, b"4")) == [None]

    asyncio.run(main())


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


def test_an_event_that_breaks_the_connection_is_dead_after_its_attempts_and_the_others_arrive(
    node: Any, proxy: Any, tmp_path: Any, unique: str
) -> None:
    way = proxy(node.stomp_port)
    way.filter("up", breaking)
    asyncio.run(send_among_good_ones(tmp_path, "stomp", {"url": url(node, way.port)}, unique))
    assert node.queue_depth(unique) == GOOD


def test_a_connection_that_answers_nothing_but_beats_is_given_up(node: Any, proxy: Any, unique: str) -> None:
    way, still = proxy(node.stomp_port), Still(b"\n")
    way.filter("down", still)

    async def main() -> None:
        hub = new_hub()
        data = {"receipt_timeout": 1.5, "heartbeat": 2, "reconnect": {"min": 0.01, "max": 0.05}}
        async with opened(hub, url=url(node, way.port), **data) as ctx:
            assert await publish(hub, ctx, event(unique, b"0")) == [None]
            still.begin()
            left = [event(unique, b"1"), event(unique, b"2")]
            assert all(isinstance(outcome, Unavailable) for outcome in await publish(hub, ctx, *left))
            assert ctx.state.connection.connects == 1
            second = await publish(hub, ctx, *left)
            assert all("answers nothing any more" in str(outcome) for outcome in second)
            assert not any(isinstance(outcome, ConnectionLost) for outcome in second)
            found = hub.ingress.stomp.ready(ctx)
            if found is not None:
                await asyncio.wait_for(found[1], WAIT)
            assert await publish(hub, ctx, *left) == [None, None]

    asyncio.run(main())
    # The broker had taken those that it could not say so of.
    assert node.queue_depth(unique) == 5


def test_a_broker_that_blocks_publishers_is_waited_for_on_the_same_connection(
    each_broken_rabbitmq: Any, unique: str
) -> None:
    node = each_broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), receipt_timeout=0.3) as ctx:
            assert await publish(hub, ctx, event(unique, b"0")) == [None]
            await asyncio.to_thread(node.memory_alarm, True)
            # The first bytes are taken yet.
            assert await publish(hub, ctx, event(unique, b"1")) == [None]
            left = [event(unique, b"%d" % number) for number in range(2, 10)]
            for _ in range(3):
                assert all(isinstance(outcome, Unavailable) for outcome in await publish(hub, ctx, *left))
            await asyncio.to_thread(node.memory_alarm, False)
            while any(await publish(hub, ctx, *left)):
                pass
            assert ctx.state.connection.connects == 1

    asyncio.run(main())
    assert node.queue_depth(unique) == 10


def test_headers_that_activemq_reads_break_no_connection_and_decide_nothing(
    activemq: Any, unique: str
) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_keys_that_activemq_takes_apart_are_refused_and_reach_no_other_queue(
    activemq: Any, unique: str
) -> None:
    async def main() -> None:
        hub = new_hub()
        keys = (f"{unique},other", f"{unique}?x=y", f"{unique} ", f"{unique}:a b/*.>")
        async with opened(hub, url=url(activemq)) as ctx:
            outcomes = await publish(hub, ctx, *(event(key, b"{}") for key in keys))
            assert [type(outcome) for outcome in outcomes] == [Rejected] * 3 + [type(None)]

    asyncio.run(main())
    assert activemq.queue_depth(unique) == 0


@pytest.mark.parametrize("headers", [{"timestamp": "noon"}, {"type": "t" * 256}])
def test_values_that_rabbitmq_cannot_take_are_refused_before_they_are_sent(
    each_rabbitmq: Any, unique: str, headers: dict[str, str]
) -> None:
    async def main() -> None:
        hub = new_hub()
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

    asyncio.run(main())


def test_delivered_means_a_receipt_of_its_own() -> None:
    async def main() -> None:
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

    asyncio.run(main())


def test_without_receipts_an_event_is_unavailable_and_not_sent_twice_over_one_connection() -> None:
    async def main() -> None:
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

    asyncio.run(main())


def test_a_cancelled_event_is_still_in_flight_and_its_receipt_is_taken_next_time() -> None:
    async def main() -> None:
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

    asyncio.run(main())


def test_no_more_than_the_window_is_in_flight() -> None:
    async def main() -> None:
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

    asyncio.run(main())


def test_a_broker_that_does_not_read_does_not_stop_the_loop(rabbitmq: Any, proxy: Any, unique: str) -> None:
    way = proxy(rabbitmq.stomp_port)

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq, way.port), receipt_timeout=0.3) as ctx:
            way.freeze()
            events = [event(unique, bytes(100_000)) for _ in range(200)]
            outcomes = await publish(hub, ctx, *events)
            assert {type(outcome) for outcome in outcomes} == {Unavailable}
            way.thaw()
            left = events
            while left:
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]

    asyncio.run(main())
    assert rabbitmq.queue_depth(unique) == 200


def test_nothing_is_lost_when_the_broker_is_killed(broken_rabbitmq: Any, unique: str) -> None:
    async def main() -> int:
        hub = new_hub()
        count = 0
        left: list[Any] = []
        async with opened(hub, url=url(broken_rabbitmq), window=200) as ctx:
            await publish(hub, ctx, event(unique, b"first"))
            killing = asyncio.ensure_future(kill(broken_rabbitmq))
            while left or not killing.done():
                if not left:
                    left = [event(unique, b"%d" % number) for number in range(count, count + 200)]
                    count += 200
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
                if left:
                    await killing
                    if not broken_rabbitmq.alive:
                        await asyncio.to_thread(broken_rabbitmq.start)
                    found = hub.ingress.stomp.ready(ctx)
                    if found is not None:
                        await asyncio.wait({asyncio.ensure_future(found[1])}, timeout=WAIT)
        return count

    count = asyncio.run(main())
    if not broken_rabbitmq.alive:
        broken_rabbitmq.start()
    bodies = {message["payload"] for message in broken_rabbitmq.take(unique, 1_000_000)}
    assert bodies == {"first", *map(str, range(count))}


def test_cancelled_anywhere_an_event_is_sent_exactly_once_over_one_connection(
    rabbitmq: Any, unique: str
) -> None:
    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(rabbitmq), window=50) as ctx:
            for turn in range(100):
                events = [event(unique, b"%d.%d" % (turn, number)) for number in range(10)]
                trying = asyncio.ensure_future(ctx.state.publish(events))
                for _ in range(turn % 25):
                    await asyncio.sleep(0)
                trying.cancel()
                await asyncio.wait({trying})
                outcomes = [] if trying.cancelled() else trying.result()
                if outcomes != [None] * 10:
                    assert await publish(hub, ctx, *events) == [None] * 10
            assert ctx.state.connection.session.receipts == {}

    asyncio.run(main())
    assert rabbitmq.queue_depth(unique) == 1000


def test_an_operator_who_closes_the_connection_rejects_nothing(broken_rabbitmq: Any, unique: str) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node)) as ctx:
            assert await publish(hub, ctx, event(unique, b"1")) == [None]
            # What is in flight when the connection is closed waits for its receipt behind the alarm.
            await asyncio.to_thread(node.memory_alarm, True)
            waiting = asyncio.ensure_future(publish(hub, ctx, event(unique, b"2"), event(unique, b"3")))
            await asyncio.to_thread(node.close_connections)
            outcomes = await waiting
            assert {type(outcome) for outcome in outcomes} <= {Unavailable, type(None)}
            await asyncio.to_thread(node.memory_alarm, False)
            found = hub.ingress.stomp.ready(ctx)
            if found is not None:
                await asyncio.wait_for(found[1], WAIT)
            left = [event(unique, b"4")]
            assert await publish(hub, ctx, *left) == [None]

    asyncio.run(main())


def test_events_behind_a_memory_alarm_are_delivered_when_it_ends(broken_rabbitmq: Any, unique: str) -> None:
    node = broken_rabbitmq

    async def main() -> None:
        hub = new_hub()
        async with opened(hub, url=url(node), receipt_timeout=0.3) as ctx:
            await asyncio.to_thread(node.memory_alarm, True)
            events = [event(unique, b"%d" % number) for number in range(300)]
            left = events
            for _ in range(3):
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            await asyncio.to_thread(node.memory_alarm, False)
            while left:
                outcomes = await publish(hub, ctx, *left)
                left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]

    asyncio.run(main())
    assert node.queue_depth(unique) == 300


def test_revoked_permissions_are_waited_for(rabbitmq: Any, unique: str) -> None:
    rabbitmq.add_user(unique, "pa55word")

    async def main() -> None:
        hub = new_hub()
        rabbitmq.set_permissions(unique, configure="^$", write="^$", read="^$")
        address = f"stomp://{unique}:pa55word@127.0.0.1:{rabbitmq.stomp_port}"
        async with opened(hub, url=address) as ctx:
            (outcome,) = await publish(hub, ctx, event(unique, b"1"))
            assert isinstance(outcome, Unavailable)
            assert "access_refused" in str(outcome)
            rabbitmq.set_permissions(unique)
            found = hub.ingress.stomp.ready(ctx)
            if found is not None:
                await asyncio.wait_for(found[1], WAIT)
            assert await publish(hub, ctx, event(unique, b"1")) == [None]

    asyncio.run(main())
    rabbitmq.delete_user(unique)
