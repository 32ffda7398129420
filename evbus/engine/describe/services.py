"""The services of an application: its components, what implements them, and who calls them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from evbus.engine.core.endpoint import Endpoint
from evbus.engine.handling.annotations import namespaces, resolved
from evbus.engine.service.declare import ServiceSpec, is_interface, service_spec
from evbus.engine.service.implementations import Plan

__all__ = ["KnownCaller", "KnownService", "ServiceWay", "callers_in", "services"]


class KnownService(NamedTuple):
    """A service.

    :ivar component: the name of the component that has it.
    :ivar implementation: the class that implements it, None where that is elsewhere.
    """

    component: str
    spec: ServiceSpec
    implementation: type | None

    @property
    def name(self) -> str:
        """What stands before the names of its methods on the wire: ``component:service``."""
        return f"{self.component}:{self.spec.name}"


class KnownCaller(NamedTuple):
    """What takes proxies of services, and so may call them.

    :ivar kind: ``listener``, ``handler`` or ``component``.
    :ivar name: of the listener or handler, or of the class in a component.
    :ivar place: the file of a listener or handler, as the hub names it, or its module; the component's name.
    """

    kind: str
    name: str
    place: str
    calls: tuple[ServiceSpec, ...]


class ServiceWay(NamedTuple):
    """That a service is called over a broker.

    :ivar endpoint: the profile of the broker.
    :ivar address: where requests are sent there.
    :ivar content_type: of requests and replies.
    """

    service: KnownService
    endpoint: Endpoint
    address: str
    content_type: str


def services(plans: Iterable[Plan], others: Iterable[ServiceSpec]) -> list[KnownService]:
    """Return the services of components that would run here, and those that are elsewhere."""
    here = {spec: KnownService(plan.name, spec, cls) for plan in plans for spec, cls in plan.services}
    there = {spec: KnownService(spec.components[0], spec, None) for spec in others}
    return sorted({**there, **here}.values(), key=lambda one: (one.component, one.spec.name))


def callers_in(plans: Iterable[Plan], others: Iterable[tuple[str, str, str, Any]]) -> list[KnownCaller]:
    """Return what takes proxies, by the annotations of parameters.

    :param others: kind, name and place of listeners and handlers, and the function or class itself.
    """
    found = list(others)
    for plan in plans:
        made = dict.fromkeys([plan.cls, *(cls for _, cls in plan.services)])
        found += [("component", cls.__qualname__, plan.name, cls) for cls in made]
    taken = {
        KnownCaller(kind, name, place, tuple(dict.fromkeys(_taken(target))))
        for kind, name, place, target in found
    }
    return sorted((one for one in taken if one.calls), key=lambda one: one[:3])


def _taken(target: Any) -> Iterator[ServiceSpec]:
    """Yield the interfaces that a function, or the methods of a class, have as parameters."""
    for function in _functions(target):
        names = namespaces(function, None)
        for one in inspect.signature(function).parameters.values():
            kind = resolved(one.annotation, names)
            if is_interface(kind):
                yield service_spec(kind)


def _functions(target: Any) -> Sequence[Any]:
    if not isinstance(target, type):
        return [inspect.unwrap(target)] if callable(target) else []
    made = [getattr(cls, "__dict__", {}).values() for cls in target.__mro__ if cls is not object]
    return [one for each in made for one in each if inspect.isfunction(one)]
