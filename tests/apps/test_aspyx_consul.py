"""aspyx-service 0.11.6, unmodified, and this package find each other in one Consul, and share a component."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import abstractmethod
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from evbus.api import services
from evbus.engine.service.declare import (
    AbstractComponent,
    Component,
    Service,
    component,
    implementation,
    rest,
    service,
)
from evbus.engine.service.health import health
from evbus.engine.service.rest import get
from tests.apps.conftest import Apps
from tests.apps.test_aspyx_service import WAIT, _begun
from tests.servers import _consul
from tests.servers._consul import Consul
from tests.servers._ports import free_ports

pytestmark = pytest.mark.apps

SIDE = Path(__file__).with_name("_aspyx_consul.py")
CHANNELS = ("dispatch-json", "dispatch-msgpack", "rest")


@service(name="greeter")
@rest("/greeter")
class Greeter(Service):
    """As theirs is."""

    @get("/hello/{name}")
    @abstractmethod
    async def hello(self, name: str) -> str: ...
    @get("/who/{name}")
    @abstractmethod
    async def who(self, name: str, times: int = 1) -> str: ...


@component(name="greeting", services=[Greeter])
class Greeting(Component): ...


@implementation()
@health("/greeting/health")
class GreetingImpl(AbstractComponent, Greeting): ...


@implementation()
class GreeterImpl(Greeter):
    async def hello(self, name: str) -> str:
        return f"hello {name}"

    async def who(self, name: str, times: int = 1) -> str:
        return f"ours {name * times}"


@pytest.fixture
def agent(tmp_path: Path) -> Any:
    if said := _consul.missing():
        pytest.skip(said)  # in CI too: it is fetched, which not every machine can do
    with Consul() as running:
        yield running.start(tmp_path / "consul")


def settings(agent: Consul) -> dict[str, Any]:
    # Their servers know no arguments by name, and where there are several, each has its turn.
    channels = {name: {"positional": True, "select": "round_robin"} for name in CHANNELS[:2]}
    channels["rest"] = {"select": "round_robin"}
    about = {"url": agent.url, "wait": 5, "check": {"interval": 1}}
    return {"registry": {"consul": about}, "channels": channels}


@contextlib.asynccontextmanager
async def ours(agent: Consul) -> AsyncGenerator[str, None]:
    """Serve here, and yield the address."""
    async with services([GreetingImpl, GreeterImpl], port=0, settings=settings(agent)) as running:
        yield f"http://127.0.0.1:{running.report()['port']}"


@contextlib.asynccontextmanager
async def theirs(aspyx: Apps, agent: Consul, folder: Path) -> AsyncGenerator[str, None]:
    """Run their server in a process of its own, and yield its address once Consul knows that it is well."""
    (port,) = free_ports(1)
    command = [str(aspyx.bin / "python"), str(SIDE), "serve", str(port), str(agent.port)]
    process = _begun(command, folder)
    try:
        async with asyncio.timeout(WAIT):
            while f":{port}:" not in await asyncio.to_thread(passing, agent):
                assert process.poll() is None, (folder / "log").read_text()
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def passing(agent: Consul) -> str:
    """Return the ids of the entries that callers are told of."""
    found = agent.ask("/v1/health/service/greeting?passing=1")
    return " ".join(one["Service"]["ID"] for one in found)


async def asked(aspyx: Apps, agent: Consul, channel: str, folder: Path) -> Any:
    """Return what a process of theirs is answered, and which addresses it knows."""
    arguments = ("check", "0", str(agent.port), channel)
    done = await asyncio.to_thread(aspyx.run, "python", SIDE, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


async def test_their_servers_are_found_and_called(aspyx: Apps, agent: Consul, tmp_path: Path) -> None:
    async with theirs(aspyx, agent, tmp_path), services(settings=settings(agent)) as running:
        for channel in CHANNELS:
            greeter = running.proxy(Greeter, channel)
            assert await greeter.hello("world") == "hello world"
            assert await greeter.who("a") == "theirs a"
            assert await greeter.who(times=3, name="a") == "theirs aaa"


async def test_their_callers_find_servers_of_this_package(aspyx: Apps, agent: Consul, tmp_path: Path) -> None:
    async with ours(agent) as url:
        for channel in CHANNELS:
            assert await asked(aspyx, agent, channel, tmp_path) == {
                "said": ["hello world", *["ours a"] * 8],
                "urls": [url],
            }


async def test_both_have_the_same_component_side_by_side(aspyx: Apps, agent: Consul, tmp_path: Path) -> None:
    async with ours(agent) as here, theirs(aspyx, agent, tmp_path) as there:
        async with services(settings=settings(agent)) as running:
            for channel in CHANNELS:
                greeter = running.proxy(Greeter, channel)
                said = [await greeter.who("a", times=2) for _ in range(10)]
                assert sorted(set(said)) == ["ours aa", "theirs aa"]
        for channel in CHANNELS:
            assert (await asked(aspyx, agent, channel, tmp_path))["urls"] == sorted([here, there])
