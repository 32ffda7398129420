"""REST, OpenAPI and health of the services of a hub."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.service.declare import AbstractComponent, Component, component, implementation, service
from evbus.engine.service.health import HealthCheckManager, HealthStatus, health, health_check, health_checks
from evbus.errors import PluginError, ServiceSignatureError
from tests.engine.web.rest_kit import Part, Shop, ShopImpl, SoldOut, sent
from tests.evbus.kit import new_hub, write
from tests.service.test_init import started


def url_of(hub: Any) -> str:
    return f"http://127.0.0.1:{hub.service.SERVICES.server.port}"


async def told(hub: Any, path: str) -> tuple[int, Any]:
    answer, value = await sent(url_of(hub), f"GET {path}")
    return answer.status, value


@implementation()
class Store(ShopImpl):
    """The implementation."""


async def test_the_channel_calls_the_server_of_the_same_process() -> None:
    async with started(Store, port=0) as hub:
        shop = hub.service.init.get(Shop, channel="rest")
        assert await shop.hello("a b/c?d") == "hello a b/c?d"
        assert await shop.add(Part("nut"), twice=True) == Part("nut", Part("nut").price * 2)
        with pytest.raises(SoldOut):
            await shop.fail("sold out")
        with pytest.raises(ServiceSignatureError, match="has no path"):
            await shop.without_path()
        assert await told(hub, "/api/plain?number=1") == (200, 2)


async def test_an_address_of_somebody_else() -> None:
    async with started(Store, port=0) as server:
        settings = {"registry": {"static": {"shop": {"rest": [url_of(server)]}}}}
        async with started(hub=new_hub(), settings=settings) as hub:
            assert await hub.service.init.get(Shop).hello("you") == "hello you"
            # In a thread, as a plain method waits.
            assert await asyncio.to_thread(hub.service.init.get(Shop, "rest").plain, 4) == 5


async def test_the_document_is_served() -> None:
    async with started(Store, port=0) as hub:
        status, document = await told(hub, "/openapi.json")
    assert status == 200
    assert document["info"]["title"] == "shop"
    assert "/api/hello/{name}" in document["paths"]


async def test_a_path_of_the_server_is_refused() -> None:
    from evbus.engine.service.declare import Service
    from evbus.engine.service.rest import get

    @service()
    class Wrong(Service):
        @get("/health")
        async def health(self) -> None: ...

    @implementation()
    class WrongImpl(Wrong):
        async def health(self) -> None: ...

    with pytest.raises(ServiceSignatureError, match="has the path '/health', which is the server's own"):
        async with started(WrongImpl, port=0):
            pytest.fail("it started")


# -- health ----------------------------------------------------------------------------------------


@health_checks()
class Checks:
    """Takes the hub, as implementations do."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub

    @health_check(name="disk")
    async def check(self, result: HealthCheckManager.Result) -> None:
        assert self.hub.service.SERVICES.health
        result.set_status(HealthStatus.WARNING, "97 % used")


async def test_checks_and_the_bus_are_told() -> None:
    async with started(Checks, port=0) as hub:
        assert await told(hub, "/health") == (
            429,
            {
                "status": "WARNING",
                "checks": [
                    {"name": "bus", "status": "OK", "details": "the bus is not started"},
                    {"name": "disk", "status": "WARNING", "details": "97 % used"},
                ],
            },
        )
        assert (await told(hub, "/health/ready"))[0] == 200
        assert await told(hub, "/health/live") == (200, {"status": "OK"})


FILE = """
from evbus.engine.service.health import HealthStatus, health_check, health_checks


@health_checks()
class Checks:
    @health_check(cache=10)
    def memory(self, result):
        result.set_status(HealthStatus.ERROR, "full")
"""


async def test_checks_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, health__memory=FILE)
    async with started(hub=new_hub(plugin_dirs=[str(tmp_path)]), port=0) as hub:
        status, found = await told(hub, "/health")
    assert status == 500
    assert found["checks"][1] == {"name": "memory", "status": "ERROR", "details": "full"}


async def test_a_file_without_checks_is_refused(tmp_path: Path) -> None:
    write(tmp_path, health__memory="x = 1\n")
    with pytest.raises(PluginError, match="it has no health checks: a class with @health_checks"):
        async with started(hub=new_hub(plugin_dirs=[str(tmp_path)]), port=0):
            pytest.fail("it started")


@component()
@health("/store/health")
class StoreComponent(Component):
    """A component with a path for its health."""


@implementation()
class Own(AbstractComponent, StoreComponent):
    async def get_health(self) -> HealthCheckManager.Health:
        return HealthCheckManager.Health(HealthStatus.ERROR)


@implementation()
class Default(AbstractComponent, StoreComponent):
    """Tells what all checks say."""


@pytest.mark.parametrize(("kind", "status"), [(Own, 500), (Default, 429)])
async def test_a_component_tells_its_health(kind: type, status: int) -> None:
    async with started(kind, Store, Checks, port=0) as hub:
        assert (await told(hub, "/store/health"))[0] == status
        assert (await told(hub, "/health"))[0] == 429


async def test_who_stops_is_not_ready() -> None:
    async with started(Store, port=0) as hub:
        manager = hub.service.SERVICES.health
        assert (await manager.check()).status is HealthStatus.OK
    assert json.dumps((await manager.check()).to_dict()["checks"][-1]) == (
        '{"name": "server", "status": "ERROR", "details": "it is being stopped"}'
    )
    await manager.close()
