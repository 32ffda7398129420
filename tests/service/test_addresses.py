"""Several servers, and connections that break, over every channel that has addresses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from evbus.errors import RemoteServiceError, ServiceCommunicationError
from tests.evbus.rig import until
from tests.servers._ports import free_ports
from tests.service.everything import Everything, Item
from tests.service.table import Channel, Place, calling, serving

pytestmark = pytest.mark.able("addresses")


async def test_calls_go_to_each_server_in_its_turn(channel: Channel) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(channel)) for _ in range(2)]
        ports = [server.service.init.report()["port"] for server in servers]
        here = await stack.enter_async_context(calling(channel, *ports))
        places = [Place(channel, server, here) for server in servers]
        await asyncio.gather(*[_opened(place) for place in places])
        found = await asyncio.gather(*[places[0].proxy.wait(str(n)) for n in range(20)])
        assert sorted(found, key=int) == [str(n) for n in range(20)]
        assert [len(place.made.begun) for place in places] == [10, 10]


async def _opened(place: Place) -> None:
    place.made.gate.set()


async def test_a_server_that_stops_in_order_loses_no_call(channel: Channel) -> None:
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(serving(channel)) for _ in range(2)]
        ports = [server.service.init.report()["port"] for server in (first, second)]
        here = await stack.enter_async_context(calling(channel, *ports))
        proxy = here.service.init.get(Everything, channel.name)
        failed: Counter[str] = Counter()
        answered = 0
        done = asyncio.Event()

        async def call() -> None:
            nonlocal answered
            while not done.is_set():
                try:
                    assert await proxy.echo(Item("x", answered)) is not None
                    answered += 1
                except ServiceCommunicationError as exc:
                    failed[str(exc)] += 1

        calls = [asyncio.ensure_future(call()) for _ in range(10)]
        await until(lambda: answered > 100)
        await first.service.init.stop(10)
        stopped = answered
        await until(lambda: answered > stopped + 100)
        done.set()
        await asyncio.gather(*calls)
        assert not failed


@pytest.mark.able("port")
async def test_none_hangs_and_none_runs_twice_when_connections_break(
    channel: Channel, proxy: Callable[..., Any]
) -> None:
    async with serving(channel) as server:
        between = await asyncio.to_thread(proxy, server.service.init.report()["port"])
        breaker = {"failures": 0, "pause": 1}
        async with calling(channel, between.port, channels={channel.name: {"breaker": breaker}}) as here:
            at = Place(channel, server, here)
            once = [asyncio.ensure_future(at.proxy.wait(f"once {n}")) for n in range(30)]
            again = [asyncio.ensure_future(at.proxy.again(f"again {n}")) for n in range(30)]
            await until(lambda: len(at.made.begun) == 60)
            await asyncio.to_thread(between.cut)
            found = await asyncio.wait_for(asyncio.gather(*once, return_exceptions=True), 30)
            # They were begun, so it is not known what became of them.
            for one in found:
                assert isinstance(one, ServiceCommunicationError)
                assert one.handed_over
                assert f"over {channel} at http://127.0.0.1:{between.port}: " in str(one)
            await until(lambda: len(at.made.begun) == 90)
            at.made.gate.set()
            assert await asyncio.gather(*again) == [f"again {n}" for n in range(30)]
            assert max(Counter(one for one in at.made.begun if one.startswith("once")).values()) == 1
            # What nobody waits for any more was cancelled.
            await until(lambda: sum(one.startswith("once") for one in at.made.ended) == 30)


async def test_a_process_may_call_itself_and_prefer_a_channel(channel: Channel) -> None:
    async with serving(channel) as server:
        init = server.service.init
        made = server.service.SERVICES.hosted.implementation(Everything)
        own = init.get(Everything)
        assert await own.seen() == {}
        assert "evbus-deadline" in await init.get(Everything, channel.name).seen()
        init.set_preferred_channel(channel.name)
        assert "evbus-deadline" in await own.seen()
        init.set_preferred_channel("")
        assert own.seen.__wrapped__.__self__ is made


async def test_where_nobody_listens_is_told_and_others_are_taken(channel: Channel) -> None:
    (unused_port,) = free_ports(1)
    async with calling(channel, unused_port) as here:
        with pytest.raises(ServiceCommunicationError) as problem:
            await here.service.init.get(Everything, channel.name).add(1)
        assert str(problem.value).startswith(
            f"Everything.add of the component 'everything' over {channel} at http://127.0.0.1:{unused_port}: "
        )
        assert problem.value.handed_over is False
    async with (
        serving(channel) as server,
        calling(channel, unused_port, server.service.init.report()["port"]) as here,
    ):
        proxy = here.service.init.get(Everything, channel.name)
        assert [await proxy.add(1) for _ in range(10)] == [123] * 10


async def test_a_server_without_the_component_says_so(channel: Channel) -> None:
    from evbus.api import services

    async with services(port=0) as other, calling(channel, other.port or 0) as here:
        with pytest.raises((RemoteServiceError, ServiceCommunicationError)) as problem:
            await here.service.init.get(Everything, channel.name).add(1)
        assert "Everything.add of the component 'everything'" in str(problem.value)
