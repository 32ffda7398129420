"""The channels amqp and stomp: what is theirs alone, through processes and real brokers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.codec import json, msgpack
from evbus.engine.service import settings as settings_module
from evbus.engine.service.messages import STATUS, STOPPING
from evbus.errors import (
    AuthorizationError,
    ConnectFailed,
    DeliveryTimeout,
    ProfileError,
    ServiceCommunicationError,
    ServiceTimeout,
)
from evbus.types import CONTENT_TYPE, Envelope
from tests.channel.processes import WAIT, Process, each, processes, replaced
from tests.channel.shop import Shop
from tests.engine.service.kit import Item, ShopImpl
from tests.engine.service.kit import Shop as Goods
from tests.evbus.kit import new_hub
from tests.evbus.rig import until
from tests.service.everything import Everything, EverythingImpl
from tests.service.locked import OTHER, SECRET, Vault, VaultImpl

PORTS = {"amqp": "port", "stomp": "stomp_port"}
#: The channels, and the brokers that they go over.
BROKERS = (("amqp", "rabbitmq"), ("stomp", "rabbitmq"), ("stomp", "activemq"))


@pytest.fixture(scope="session", params=BROKERS, ids="-".join)
def at(request: pytest.FixtureRequest) -> tuple[str, int]:
    """Return the name of a channel, and the port of a broker."""
    channel, broker = request.param
    return channel, getattr(request.getfixturevalue(broker), PORTS[channel])


@pytest.fixture
def channel(at: tuple[str, int]) -> str:
    return at[0]


@pytest.fixture
def place(at: tuple[str, int], unique: str) -> dict[str, Any]:
    """Return the options of services that are called over a channel, with queues of their own."""
    return options(*at, unique)


def options(channel: str, port: int, queue: str, **more: Any) -> dict[str, Any]:
    settings = {"profile": "rpc", "queue": f"{queue}.{{component}}", **more}
    return {
        "settings": {"channels": {channel: settings}},
        "profiles": {channel: {"rpc": {"url": f"{channel}://guest:guest@127.0.0.1:{port}/"}}},
    }


@contextlib.asynccontextmanager
async def started(*implementations: Any, **how: Any) -> AsyncGenerator[Any, None]:
    hub = new_hub()
    hub.service.init.add(*implementations)
    await hub.service.init.start(**how)
    try:
        yield hub
    finally:
        await hub.service.init.stop(WAIT)


# Servers that end


async def test_of_a_server_that_is_killed_no_call_hangs_and_none_runs_twice(
    place: dict[str, Any], tmp_path: Path
) -> None:
    with processes(tmp_path, 2, place) as (first, second):
        async with started(**place) as hub:
            shop = hub.service.init.get(Shop)

            async def take(number: int) -> int:
                if number == 500:
                    first.kill()
                return await shop.take(number)

            found = await each(take, 1000)
        ran = first.runs() + second.runs()
        assert max(ran.values()) == 1
        lost = {number for number, value in found.items() if value != number}
        for number in lost:
            assert isinstance(found[number], ServiceCommunicationError)
            assert found[number].handed_over
            assert "Shop.take of the component 'shop'" in str(found[number])
            assert "it may have been begun, and is not run again" in str(found[number])
        assert len(lost) <= 32
        assert set(ran) >= set(range(1000)) - lost


async def test_what_may_run_twice_is_run_again_by_another_server(
    place: dict[str, Any], tmp_path: Path
) -> None:
    with processes(tmp_path, 2, place) as (first, _):
        async with started(**place) as hub:
            shop = hub.service.init.get(Shop)

            async def find(number: int) -> int:
                if number == 500:
                    first.kill()
                return await shop.find(number)

            assert await each(find, 1000) == {number: number for number in range(1000)}


async def test_of_servers_that_are_replaced_one_after_the_other_no_call_fails(
    place: dict[str, Any], tmp_path: Path
) -> None:
    with processes(tmp_path, 3, place) as running:
        async with started(**place) as hub:
            shop = hub.service.init.get(Shop)

            def again(number: int, one: Process) -> Process:
                return Process(tmp_path / f"{number}-again", options=place)

            await replaced(shop, running, again, 32)


# Over amqp nothing comes to it any more.
@pytest.mark.parametrize("at", BROKERS[1:], ids="-".join, indirect=True, scope="session")
async def test_what_comes_to_a_server_that_stops_is_run_once_by_the_next(
    place: dict[str, Any], channel: str, unique: str
) -> None:
    async with started(**place) as here:
        link, body = _link(here, channel), json.apply({"method": "everything:everything:nothing"})
        question = Envelope("rpc", f"{unique}.everything", body, {CONTENT_TYPE: "application/json"})
        everything = here.service.init.get(Everything)
        async with started(EverythingImpl, **place) as first:
            old = first.service.SERVICES.hosted.implementation(Everything)
            under_way = asyncio.ensure_future(everything.wait("old"))
            await until(lambda: old.begun == ["old"])
            stopping = asyncio.ensure_future(first.service.init.stop(WAIT))
            while json.load((await link.request(question.replace(), WAIT)).body).get(STATUS) != STOPPING:
                pass
            await link.close()
            calls = [asyncio.ensure_future(everything.wait(str(number))) for number in range(200)]
            async with started(EverythingImpl, **place) as second:
                new = second.service.SERVICES.hosted.implementation(Everything)
                new.gate.set()
                assert await asyncio.gather(*calls) == [str(number) for number in range(200)]
                old.gate.set()
                assert await under_way == "old"
                await stopping
        assert old.begun == ["old"]
        assert sorted(new.begun) == sorted(map(str, range(200)))


# What cannot be called


async def test_nobody_serves_and_the_caller_is_told_at_once(rabbitmq: Any, unique: str) -> None:
    async with started(**options("amqp", rabbitmq.port, unique)) as hub:
        with pytest.raises(ServiceCommunicationError) as problem:
            await hub.service.init.get(Shop).take(1)
    assert not problem.value.handed_over
    said = str(problem.value)
    assert said.startswith(f"Shop.take of the component 'shop' over amqp at {unique}.shop: ")
    assert "there is no queue of the name" in said
    assert "see that a process runs which has the component" in said


async def test_a_call_that_nobody_takes_any_more_ends_at_its_deadline_and_is_not_run(
    place: dict[str, Any], channel: str, unique: str
) -> None:
    async with started(**place) as here:
        everything = here.service.init.get(Everything)
        async with started(EverythingImpl, **place):
            assert await everything.add(1) == 123
        # The queue is still there.
        with pytest.raises(ServiceTimeout) as problem, here.service.init.within(1):
            await everything.wait("late")
        said = str(problem.value)
        assert said.startswith(
            f"Everything.wait of the component 'everything' over {channel} at {unique}.everything: "
        )
        assert re.search("no (answer|reply)", said)
        assert said.endswith(
            "perhaps nobody takes calls there: see that a process runs which has the component"
        )
        async with started(EverythingImpl, **place) as there:
            assert await everything.add(1) == 123
            assert there.service.SERVICES.hosted.implementation(Everything).begun == []


async def test_a_broker_that_is_away_is_told(
    at: tuple[str, int], place: dict[str, Any], unique: str, proxy: Callable[..., Any]
) -> None:
    channel, port = at
    way = proxy(port)
    served, place = place, options(channel, way.port, unique)
    async with started(ShopImpl, **served):
        async with started(**place) as hub:
            goods = hub.service.init.get(Goods)
            assert await goods.find("pen") == Item("pen")
            way.refuse()
            way.cut()
            with (
                pytest.raises(ServiceCommunicationError, match=f"over {channel}"),
                hub.service.init.within(1),
            ):
                await goods.find("pen")
            way.accept()
            async with asyncio.timeout(WAIT):
                assert await goods.find("pen") == Item("pen")
        way.refuse()
        async with started(**place) as hub:
            with pytest.raises(ServiceCommunicationError, match="refused|connect") as problem:
                await hub.service.init.get(Goods).find("pen")
            assert not problem.value.handed_over
        with pytest.raises(ConnectFailed):
            async with started(ShopImpl, **place):
                pass


async def test_what_is_no_call_gets_a_clear_answer(place: dict[str, Any], channel: str, unique: str) -> None:
    place["settings"]["channels"][channel]["max_body"] = 1000
    async with started(ShopImpl, **place) as hub:
        link = _link(hub, channel)

        async def answer(body: bytes, kind: str = "application/json", **headers: str) -> dict[str, Any]:
            event = Envelope("rpc", f"{unique}.shop", body, {CONTENT_TYPE: kind, **headers})
            reply = await link.request(event, WAIT)
            found = (json if "json" in reply.headers[CONTENT_TYPE] else msgpack).load(reply.body)
            assert found["result"] is None
            assert found["exception"] == found["error"]["reason"]
            return {"status": found["status"], **found["error"]}

        try:
            assert await answer(b"{}") == {
                "status": 400,
                "type": "InvalidPayload",
                "reason": 'a call is {"method": "component:service:method", "args": [...]}',
            }
            for method in ("shop:shop:__class__", "shop:shop:_private", "shop:shop:steal"):
                found = await answer(json.apply({"method": method, "args": []}))
                assert found == {
                    "status": 404,
                    "type": "LocalServiceError",
                    "reason": f"there is no method {method!r}",
                }
            assert (await answer(b"{"))["status"] == 400
            found = await answer(b"x", "text/plain")
            assert found["reason"] == (
                "a call is application/msgpack or application/json, and this one is text/plain"
            )
            found = await answer(b"{}", **{"content-encoding": "gzip"})
            assert found["reason"] == "the content encoding is 'gzip'; a call is sent as it is"
            found = await answer(b"[" * 1001)
            assert (found["status"], found["type"]) == (413, "PayloadTooLarge")
            found = await answer(b"{}", **{"evbus-deadline": "soon"})
            assert found["reason"] == "the header evbus-deadline is in seconds since the epoch, and not soon"
            # And the next call goes through.
            assert await hub.service.init.get(Goods, channel).find("pen") == Item("pen")
        finally:
            await link.close()


async def test_calls_whose_time_is_over_are_not_begun(
    place: dict[str, Any], channel: str, unique: str
) -> None:
    async with started(ShopImpl, **place) as hub:
        link = _link(hub, channel)
        body = json.apply({"method": "shop:shop:find", "args": ["pen"]})
        headers = {CONTENT_TYPE: "application/json", "evbus-deadline": f"{time.time() - 1:.3f}"}
        with pytest.raises(DeliveryTimeout, match="no reply came"):
            await link.request(Envelope("rpc", f"{unique}.shop", body, headers), 0.5)
        await link.close()


async def test_calls_in_json_are_served_beside_those_in_messagepack(
    place: dict[str, Any], channel: str, unique: str
) -> None:
    async with started(ShopImpl, **place):
        place["settings"]["channels"][channel]["encoding"] = "json"
        async with started(**place) as hub:
            goods = hub.service.init.get(Goods)
            assert await goods.find("pen") == Item("pen")


def _link(hub: Any, channel: str) -> Any:
    """Return what sends requests of any kind to the queues of a channel."""
    own = settings_module.MessageSettings(**hub.service.SERVICES.settings.channels[channel])
    ctx = hub.pop.data.imap({"name": channel, "profile": own})
    contexts, name, _ = hub.channel.init.broker(ctx, channel)
    return hub.evbus.rpc.link(name, contexts)


# Settings


@pytest.mark.parametrize(
    ("channel_settings", "profiles", "said"),
    [
        ({"profile": "rcp"}, {"amqp": {"rpc": {}}}, "there is no profile 'rcp'; did you mean 'rpc'"),
        (
            {"profile": "rpc"},
            {"stomp": {"rpc": {"url": "stomp://127.0.0.1/"}}},
            "the profile 'rpc' is one of stomp, and the channel amqp needs one of amqp",
        ),
        (
            {"profile": "rpc"},
            {"amqp": {"rpc": {}}, "rabbitmq": {"rpc": {}}},
            "several profiles are called 'rpc'; say amqp.rpc or rabbitmq.rpc",
        ),
        ({"profil": "rpc"}, {"amqp": {"rpc": {}}}, "profil: there is no such key; did you mean 'profile'"),
        ({"queue": "shop"}, {"amqp": {"rpc": {}}}, "{component} stands in it"),
        ({"queue": "{component}.#"}, {"amqp": {"rpc": {}}}, "queue names the queue of a component"),
        ({"concurrency": 0}, {"amqp": {"rpc": {}}}, "concurrency is 1 to 65535"),
        ({"encoding": "xml"}, {"amqp": {"rpc": {}}}, "encoding"),
        ({"profile": "rpc"}, None, "the channel amqp needs the profile 'rpc', and there are no profiles"),
    ],
)
async def test_settings_that_cannot_be_right(
    channel_settings: dict[str, Any], profiles: dict[str, Any] | None, said: str
) -> None:
    hub = new_hub()
    with pytest.raises(ProfileError) as problem:
        await hub.service.init.start(settings={"channels": {"amqp": channel_settings}}, profiles=profiles)
    assert said in str(problem.value)
    assert "channels.amqp" in str(problem.value)


async def test_where_components_are_called_is_told(place: dict[str, Any], channel: str, unique: str) -> None:
    async with started(ShopImpl, **place) as hub:
        (found,) = hub.service.init.report()["components"]
        assert found["addresses"] == [[channel, f"{unique}.shop"]]
        assert hub.service.init.report()["port"] is None


# Who calls


async def test_tokens_say_over_a_broker_who_calls(place: dict[str, Any], channel: str) -> None:
    settings = place["settings"]
    auth = {"tokens": {"joe": {"token": SECRET, "scopes": ["vault:read"]}, "ann": {"token": OTHER}}}
    served = {**place, "settings": {**settings, "auth": auth}}
    async with started(VaultImpl, **served), started(**place) as here:
        vault = here.service.init.get(Vault)
        with pytest.raises(AuthorizationError, match=f"over {channel}.*who calls is not known") as problem:
            await vault.look()
        assert not problem.value.known
        with here.service.init.token(SECRET):
            assert await vault.look() == "joe"
        with here.service.init.token(OTHER), pytest.raises(AuthorizationError, match="vault:read") as problem:
            await vault.look()
        assert problem.value.known
        with here.service.init.token(OTHER[::-1]), pytest.raises(AuthorizationError, match="not accepted"):
            await vault.look()


async def test_a_server_that_loses_its_connection_for_a_moment_answers_all_the_same(
    at: tuple[str, int], unique: str, proxy: Callable[..., Any]
) -> None:
    channel, port = at
    way = proxy(port)
    async with started(EverythingImpl, **options(channel, way.port, unique)) as there:
        made = there.service.SERVICES.hosted.implementation(Everything)
        async with started(**options(channel, port, unique)) as here:
            everything = here.service.init.get(Everything)
            under_way = asyncio.ensure_future(everything.wait("x"))
            await until(lambda: made.begun == ["x"])
            way.cut()
            # It is delivered again over the next connection, behind which this comes: a method that may run
            # twice, as the broker may have sent it over the lost one.
            async with asyncio.timeout(WAIT):
                assert await everything.left() > 0
            made.gate.set()
            async with asyncio.timeout(WAIT):
                await under_way
        assert made.begun == ["x"]
