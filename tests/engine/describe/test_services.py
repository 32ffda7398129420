"""The services of an application, and who takes proxies of them."""

from __future__ import annotations

from typing import Any

from evbus.engine.describe.services import KnownCaller, callers_in, services
from evbus.engine.service.declare import Service, implementation, service, service_spec
from evbus.engine.service.implementations import planned


@service()
class Store(Service):
    async def fetch(self) -> int: ...


@service()
class Vault(Service):
    async def open(self) -> int: ...


@implementation()
class StoreImpl(Store):
    def __init__(self, vault: Vault) -> None: ...

    async def fetch(self) -> int:
        return 1


class Listener:
    def __init__(self, hub: Any, other: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    async def on(self, event: Any, store: Store, again: Store) -> None: ...


async def listener(event: Any, count: int, vault: Vault) -> None: ...


def test_services_here_and_elsewhere() -> None:
    found = services(planned([StoreImpl]), [service_spec(Store), service_spec(Vault)])
    assert [(one.name, one.implementation) for one in found] == [
        ("store:store", StoreImpl),
        ("vault:vault", None),
    ]


def test_callers_are_told_by_the_annotations_of_functions_classes_and_constructors() -> None:
    others: list[tuple[str, str, str, Any]] = [
        ("listener", "one", "listener.one", listener),
        ("listener", "two", "listener.two", Listener),
        ("handler", "three", "handler.three", len),
        ("handler", "four", "handler.four", 5),
    ]
    assert callers_in(planned([StoreImpl]), others) == [
        KnownCaller("component", "StoreImpl", "store", (service_spec(Vault),)),
        KnownCaller("listener", "one", "listener.one", (service_spec(Vault),)),
        KnownCaller("listener", "two", "listener.two", (service_spec(Store),)),
    ]
