"""What a broker does to all transports at once: it blocks, closes, stands still, dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from evbus.engine.wire.base.supervisor import ConnectionState
from evbus.errors import Unavailable
from evbus.types import Envelope
from tests.servers._node import Node
from tests.servers._rabbitmq import RabbitMQ
from tests.transports.asking import UNKNOWN, ask, asking, echoing
from tests.transports.kit import WAIT, Following, eventually
from tests.transports.table import Place, Sender, places

COUNT = 200


@asynccontextmanager
async def senders(
    node: Node, name: str, *, patience: float = 0.3, **data: Any
) -> AsyncIterator[list[tuple[Place, Sender]]]:
    """Yield a sender for each transport, which waits for an outcome as many seconds as ``patience`` says."""
    async with AsyncExitStack() as stack:
        found = []
        for place in places(node, name):
            sending = place.sending(**{place.at.patience: patience, **data})
            found.append((place, await stack.enter_async_context(sending)))
        yield found


async def unanswered(node: Node, found: list[tuple[Place, Sender]]) -> list[asyncio.Task[Envelope]]:
    """Send a request that nobody takes with each sender that can, and return when they wait for replies."""
    tasks = []
    for place, send in found:
        if "requests" in place.at.can:
            mute = Place(place.at, node, f"{place.key}-mute")
            mute.declare()
            tasks.append(asking(send, mute.event()))
            await eventually(lambda mute=mute: mute.depth() == 1, "the request is in its queue")
    return tasks


async def insist(send: Sender, events: Sequence[Envelope]) -> list[Envelope]:
    """Send three times what is not delivered, for which nobody is to blame, and return what is left."""
    left = list(events)
    for _ in range(3):
        outcomes = await send(*left)
        assert all(outcome is None or isinstance(outcome, Unavailable) for outcome in outcomes)
        left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
    return left


async def test_a_broker_that_blocks_publishers_is_waited_for_on_the_same_connection(
    each_broken_rabbitmq: RabbitMQ, unique: str
) -> None:
    node = each_broken_rabbitmq
    async with senders(node, unique) as found:
        for place, send in found:
            await send.deliver(*place.numbered(10))
        await asyncio.to_thread(node.memory_alarm, True)
        # RabbitMQ 3 takes what comes by AMQP 1.0, alarm or not, and the first bytes by STOMP.
        left = await asyncio.gather(*(insist(send, place.numbered(300, start=10)) for place, send in found))
        assert len(left[0]) == 300
        (place, send), *_ = found
        assert send.hub.connection.init.states()["amqp.orders"]["blocked"]
        # A request is no event that waits: whoever asks is told.
        with pytest.raises(Unavailable, match="the broker blocks publishers"):
            await ask(send, place.event(), 0.1)
        for place, _ in found:
            # Who would empty the queues, and so end the alarm, is heard.
            async with place.consuming(most=2) as following:
                for number in range(10):
                    delivery = await following()
                    assert delivery.envelope.body == b"%d" % number
                    delivery.ack()
        await asyncio.to_thread(node.memory_alarm, False)
        await asyncio.gather(*(send.deliver(*rest) for (_, send), rest in zip(found, left, strict=True)))
        assert {send.connection.connects for _, send in found} == {1}
    for place, _ in found:
        assert sorted(map(int, place.taken())) == list(range(10, 310))


@pytest.mark.parametrize("each_spare_rabbitmq_of_the_run", ["3.10", "4.0"], indirect=True)
async def test_an_operator_who_closes_connections_rejects_nothing(
    each_broken_rabbitmq: RabbitMQ, unique: str
) -> None:
    node = each_broken_rabbitmq
    async with senders(node, unique, patience=WAIT) as found:
        for place, send in found:
            assert await send(place.event()) == [None]
        requests = await unanswered(node, found)
        # What is in flight when a connection is closed waits for its outcome behind the alarm.
        await asyncio.to_thread(node.memory_alarm, True)
        waiting = [asyncio.ensure_future(send(*place.numbered(2))) for place, send in found]
        await asyncio.to_thread(node.close_connections, "maintenance")
        for outcomes in await asyncio.gather(*waiting):
            assert all(outcome is None or isinstance(outcome, Unavailable) for outcome in outcomes)
        for request in requests:
            with pytest.raises(Unavailable, match=UNKNOWN):
                await request
        await asyncio.to_thread(node.memory_alarm, False)
        for place, send in found:
            await send.ready()
            assert await send(place.event()) == [None]
        connects = {place.kit.provider: send.connection.connects for place, send in found}
        # RabbitMQ 3 closes none of AMQP 1.0.
        assert connects == {"amqp": 2, "amqp1": 1 if node.version < (4,) else 2, "stomp": 2}
        assert "maintenance" in found[0][1].connection.last_error


async def test_a_broker_that_stands_still_is_waited_out(broken_rabbitmq: RabbitMQ, unique: str) -> None:
    node = broken_rabbitmq
    data: dict[str, Any] = {"heartbeat": 1, "connect_timeout": 1}
    async with senders(node, unique, **data) as found, AsyncExitStack() as stack:
        consumers = [await stack.enter_async_context(place.consuming(**data)) for place, _ in found]
        for (place, send), following in zip(found, consumers, strict=True):
            await send.deliver(place.event(b"first"))
            (await following()).ack()
        await asyncio.to_thread(node.freeze)
        for _, send in found:
            await eventually(lambda send=send: send.connection.state is not ConnectionState.UP, "it is lost")
            assert "two heartbeats" in send.connection.last_error
        await asyncio.to_thread(node.thaw)
        await asyncio.gather(*(send.deliver(*place.numbered(3)) for place, send in found))
        await asyncio.gather(*(take(following, range(3)) for following in consumers))


async def take(following: Following, numbers: range) -> None:
    """Take these numbers, some of them twice, and what else there is."""
    missing = {b"%d" % number for number in numbers}
    while missing:
        delivery = await following()
        delivery.ack()
        missing.discard(delivery.envelope.body)


async def test_nothing_is_lost_when_the_broker_is_killed(broken: Node, unique: str) -> None:
    node, back = broken, asyncio.Event()

    async def flood(place: Place, send: Sender) -> int:
        """Send until the broker is gone, and then what was in flight again; return how many there are."""
        count, left = 0, list[Envelope]()
        while not left:
            events = place.numbered(COUNT, start=count)
            count += COUNT
            outcomes = await send(*events)
            left = [one for one, outcome in zip(events, outcomes, strict=True) if outcome is not None]
        await back.wait()
        await send.deliver(*left)
        return count

    async with (
        senders(node, unique) as found,
        senders(node, f"{unique}-in") as sources,
        AsyncExitStack() as stack,
    ):
        consumers = [await stack.enter_async_context(place.consuming(most=10)) for place, _ in sources]
        for (place, send), following in zip(sources, consumers, strict=True):
            await send.deliver(*place.numbered(50))
            for _ in range(5):
                (await following()).ack()
            await following()
        for place, send in found:
            await send.deliver(place.event(b"0"))
        requests = await unanswered(node, sources)
        await asyncio.to_thread(node.sync)
        flooding = [asyncio.ensure_future(flood(place, send)) for place, send in found]
        await asyncio.to_thread(node.kill)
        for request in requests:
            with pytest.raises(Unavailable, match=UNKNOWN):
                await request
        await asyncio.to_thread(node.start)
        back.set()
        counts = await asyncio.gather(*flooding)
        # Acknowledgements may have died with the broker.
        await asyncio.gather(*(take(following, range(5, 50)) for following in consumers))
        for place, send in sources:
            if "requests" in place.at.can:
                served = Place(place.at, node, f"{place.key}-served")
                served.declare()
                async with echoing(served):
                    assert (await ask(send, served.event(b"again"))).body == b"again"
    for (place, _), count in zip(found, counts, strict=True):
        assert set(place.taken()) == {b"%d" % number for number in range(count)}
