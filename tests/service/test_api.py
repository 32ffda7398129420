"""Services without a POP project: ``evbus.api.services``, with an event loop and without one."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from typing import Any

import pytest

from evbus.api import (
    HealthCheckManager,
    HealthStatus,
    Service,
    health_check,
    health_checks,
    implementation,
    service,
    services,
)
from evbus.errors import (
    ConfigError,
    LocalServiceError,
    ServiceCommunicationError,
    ServiceError,
    ServiceSignatureError,
)
from tests.engine.service import kit
from tests.engine.service.kit import Item, OutOfStock, Shop, ShopImpl


def elsewhere(port: int | None, **more: Any) -> dict[str, Any]:
    uri = f"http://127.0.0.1:{port}"
    return {"registry": {"static": {"shop": {"dispatch-msgpack": uri, "dispatch-json": uri}}}, **more}


async def test_services_of_a_program_with_an_event_loop() -> None:
    async with services([ShopImpl], port=0, service_timeout=5) as running:
        shop = running.proxy(Shop)
        assert await shop.find("x") == Item("x")
        assert running.port
        assert running.report()["components"][0]["name"] == "shop"
        assert running.hub.evbus.init.settings().service_timeout == 5
        async with services(settings=elsewhere(running.port)) as there:
            assert await there.proxy(Shop).find("y") == Item("y")
        with pytest.raises(ServiceError, match="these services run in a loop of the program: await it there"):
            there.run(asyncio.sleep(0))
    with pytest.raises(LocalServiceError, match="are not started"):
        await shop.find("x")


def test_services_of_a_program_without_an_event_loop() -> None:
    before = threading.active_count()
    with services([kit], port=0) as running:
        shop = running.proxy(Shop)
        assert shop.price("pen") == 6.0
        assert running.run(shop.find("x")) == Item("x")
        with services(settings=elsewhere(running.port)) as there:
            remote = there.proxy(Shop)
            assert remote.price("pen", factor=3) == 9.0
            with pytest.raises(TypeError, match=r"Shop.price\(\): missing a required argument: 'name'"):
                remote.price()  # type: ignore[call-arg]
            with pytest.raises(OutOfStock):
                there.run(remote.fail("stock"))
            assert there.run(_all(remote)) == [Item("0"), Item("1")]
            with (
                there.within(0.3),
                pytest.raises(ServiceCommunicationError, match="there was no answer within the "),
            ):
                there.run(remote.fail("wait"))
    with pytest.raises(LocalServiceError, match="are not started"):
        shop.price("pen")
    assert threading.active_count() == before


async def _all(shop: Shop) -> list[Item]:
    return [item async for item in shop.every(2)]


async def test_a_plain_method_elsewhere_is_not_called_in_the_loop() -> None:
    async with services([ShopImpl], port=0) as running, services(settings=elsewhere(running.port)) as there:
        shop = there.proxy(Shop)
        with pytest.raises(ServiceError) as problem:
            shop.price("pen")
        assert str(problem.value) == (
            "Shop.price is a plain method, and it is called in another process: it would hold up the event "
            "loop; declare it with async def, or call it from a thread: await asyncio.to_thread(proxy.price, "
            "...)"
        )
        assert await asyncio.to_thread(shop.price, "pen") == 6.0


def test_a_start_that_fails_ends_its_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ServiceSignatureError), services([int]):
        pass
    with pytest.raises(LookupError), services(settings={"registry": "local"}):
        raise LookupError
    assert threading.active_count() == before


def test_services_that_are_not_started_say_how_that_is_done() -> None:
    said = r"services\(...\) are not started yet, and have no proxy: write `async with services\("
    with pytest.raises(AttributeError, match=said):
        services([ShopImpl]).proxy(Shop)  # type: ignore[attr-defined]
    assert not hasattr(services([ShopImpl]), "prxy")


def test_what_is_no_list_of_classes_is_told_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"^services\(\) takes a list: services\(\[ShopImpl\]\)$"):
        services(ShopImpl)  # type: ignore[arg-type]
    with (
        pytest.raises(ServiceSignatureError, match="^an object of ShopImpl was handed over"),
        services([ShopImpl()]),  # type: ignore[list-item]
    ):
        pass


def test_an_asynchronous_method_where_a_plain_one_is_declared_is_told_so() -> None:
    @implementation()
    class Asynchronous(ShopImpl):
        async def price(self, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[override]

    with (
        pytest.raises(ServiceSignatureError, match=r" is an async def, and Shop\.price is a plain def"),
        services([Asynchronous]),
    ):
        pass


class Bells:
    number = 3


async def test_what_is_provided_is_taken_by_constructors_of_components_and_checks() -> None:
    @service()
    class Steeple(Service):
        @abstractmethod
        async def bells(self) -> int: ...

    @implementation()
    class SteepleImpl(Steeple):
        def __init__(self, bells: Bells) -> None:
            self._bells = bells

        async def bells(self) -> int:
            return self._bells.number

    @health_checks()
    class Cracks:
        def __init__(self, bells: Bells) -> None:
            self.found = bells

        @health_check()
        async def cracks(self, result: HealthCheckManager.Result) -> None:
            result.set_status(HealthStatus.WARNING, f"{self.found.number} bells")

    async with services([SteepleImpl, Cracks], provide={Bells: Bells()}) as running:
        assert await running.proxy(Steeple).bells() == 3
        health = await running.hub.service.SERVICES.health.check()
        assert [one.details for one in health.results if one.name == "cracks"] == ["3 bells"]
