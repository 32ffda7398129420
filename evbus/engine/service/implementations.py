"""Implementations: which classes they are, whether they fit their interfaces, and their objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from evbus.engine.handling.annotations import namespaces, resolved, written
from evbus.engine.handling.providers import Injector
from evbus.engine.handling.signature import Dependency, dependencies_of, values_of
from evbus.engine.kit.redact import one_line
from evbus.engine.service.access import ACCESS
from evbus.engine.service.declare import (
    AbstractComponent,
    Component,
    ComponentSpec,
    ServiceSpec,
    interfaces_of,
    is_implementation,
    is_interface,
)
from evbus.engine.service.health import checks_in
from evbus.engine.service.method import MethodSpec
from evbus.errors import ServiceSignatureError

__all__ = ["Plan", "build", "check", "classes", "classes_in", "other_defaults", "planned"]

_ASYNC, _PLAIN = "an async def", "a plain def"


class Plan(NamedTuple):
    """A component that is to run.

    :ivar cls: what implements the component itself.
    :ivar services: its interfaces, each with the class that implements it.
    """

    name: str
    cls: type
    services: tuple[tuple[ServiceSpec, type], ...]


def classes_in(module: ModuleType) -> list[type]:
    """Return the implementations that a module declares itself."""
    return [
        value
        for value in vars(module).values()
        if is_implementation(value) and value.__module__ == module.__name__
    ]


def classes(places: Iterable[Any]) -> list[type]:
    """Return the implementations and health checks among classes and in modules.

    :raises ServiceSignatureError: a module has none.
    """
    found: list[type] = []
    for one in places:
        inside = [*classes_in(one), *checks_in(one)] if isinstance(one, ModuleType) else [one]
        if not inside:
            raise ServiceSignatureError(
                f"the module {one.__name__} has no class with @implementation() or @health_checks()"
            )
        found += inside
    return found


def place(cls: Any) -> str:
    """Return where something is written, in brackets: file and line."""
    try:
        lines = inspect.getsourcelines(inspect.unwrap(cls))[1]
        return f" ({Path(str(inspect.getsourcefile(cls)))}:{lines})"
    except (OSError, TypeError):
        return ""


def planned(classes: Iterable[type]) -> list[Plan]:
    """Return the components to run: those that are implemented, and one for each service that stands alone.

    :raises ServiceSignatureError: one does not fit its interface, an interface has two implementations, or a
        component lists a service that has none.
    """
    services: dict[ServiceSpec, type] = {}
    components: dict[str, tuple[ComponentSpec, type]] = {}
    for cls in dict.fromkeys(classes):
        check(cls)
        for spec in interfaces_of(cls):
            if isinstance(spec, ServiceSpec):
                _refuse_second(spec.cls, services.get(spec), cls)
                services[spec] = cls
            else:
                known = components.get(spec.name)
                _refuse_second(spec.cls, None if known is None else known[1], cls)
                components[spec.name] = (spec, cls)
    plans: list[Plan] = []
    for name, (component, cls) in components.items():
        found = []
        for listed in component.services:
            service = next((one for one in services if one.cls is listed), None)
            other = next((plan.name for plan in plans for spec, _ in plan.services if spec.cls is listed), "")
            if other:
                raise ServiceSignatureError(
                    f"the components {other!r} and {name!r} both list {listed.__qualname__}, and both are "
                    "implemented here; a process has one of them"
                )
            if service is None:
                raise ServiceSignatureError(
                    f"the component {name!r} lists {listed.__qualname__}, and nothing implements it here; "
                    f"write a class that derives from it, with @implementation()"
                )
            found.append((service, services.pop(service)))
        plans.append(Plan(name, cls, tuple(found)))
    alone: dict[str, list[tuple[ServiceSpec, type]]] = {}
    for service, cls in services.items():
        alone.setdefault(_alone(service), []).append((service, cls))
    plans += [Plan(name, AbstractComponent, tuple(each)) for name, each in alone.items()]
    for plan in plans:
        _refuse_twins(plan)
    return plans


def _alone(service: ServiceSpec) -> str:
    """Return the name of the component of a service of which none is implemented here."""
    if len(service.components) > 1:
        raise ServiceSignatureError(
            f"{service.cls.__qualname__} stands in the components {', '.join(service.components)}, and none "
            "of them is implemented here; write a class that derives from one of them, with @implementation()"
        )
    return service.component


def _refuse_twins(plan: Plan) -> None:
    """Refuse two services that are called alike on the wire."""
    named: dict[str, ServiceSpec] = {}
    for spec, _ in plan.services:
        other = named.setdefault(spec.name, spec)
        if other is not spec:
            both = " and ".join(f"{one.cls.__qualname__}{place(one.cls)}" for one in (other, spec))
            raise ServiceSignatureError(
                f"{both} are both called {spec.name!r} in the component {plan.name!r}; give one of them "
                'another name: @service("name")'
            )


def _refuse_second(interface: Any, first: type | None, second: type) -> None:
    if first is not None:
        raise ServiceSignatureError(
            f"{interface.__qualname__} has two implementations, {first.__qualname__}{place(first)} and "
            f"{second.__qualname__}{place(second)}; leave one of them out"
        )


def check(cls: Any) -> None:
    """Check that a class implements what its interfaces declare.

    :raises ServiceSignatureError: names the method, and the file and line.
    """
    if not is_implementation(cls):
        if is_implementation(type(cls)):
            name = type(cls).__qualname__
            raise ServiceSignatureError(f"an object of {name} was handed over; hand over {name}, the class")
        shown = cls.__qualname__ if isinstance(cls, type) else repr(cls)
        hint = "; it is an interface: hand over the class that implements it" if is_interface(cls) else ""
        raise ServiceSignatureError(f"{shown} is no implementation: it has no @implementation(){hint}")
    if ACCESS in vars(cls):
        raise ServiceSignatureError(
            f"{cls.__qualname__}{place(cls)} has @authorize, which stands on an interface, for callers to see"
        )
    for spec in interfaces_of(cls):
        for method in spec.methods.values() if isinstance(spec, ServiceSpec) else ():
            _check_method(cls, method)
    missing = sorted(
        name for name in dir(cls) if getattr(inspect.getattr_static(cls, name), "__isabstractmethod__", False)
    )
    if missing:
        usual = Component.__abstractmethods__
        raise ServiceSignatureError(
            f"{cls.__qualname__}{place(cls)} has no {missing[0]}(), which is abstract above it"
            + (f"; nor {', '.join(missing[1:])}" if missing[1:] else "")
            + ("; AbstractComponent, as its first base, has them" if usual.issuperset(missing) else "")
        )


def _check_method(cls: type, spec: MethodSpec) -> None:
    own = inspect.getattr_static(cls, spec.name)
    if getattr(own, "__isabstractmethod__", False):
        raise ServiceSignatureError(
            f"{cls.__qualname__}{place(cls)} has no method {spec.name}{spec.signature}, which {spec.title} is"
        )
    function = getattr(cls, spec.name)
    where = f"{cls.__qualname__}.{spec.name}{place(function)}"
    if not callable(function):
        raise ServiceSignatureError(f"{where} is no method, as {spec.title} is")
    if function is not spec.function and ACCESS in vars(function):
        raise ServiceSignatureError(
            f"{where} has @authorize, which stands on {spec.title}, for callers to see"
        )
    coroutine = inspect.iscoroutinefunction(function)
    yields = inspect.isasyncgenfunction(function)
    if spec.item is not None and (coroutine or inspect.isgeneratorfunction(function)):
        raise ServiceSignatureError(
            f"{where} is to return an asynchronous iterator, as {spec.title} does: `async def` with a yield "
            "in it, or a plain def that returns one"
        )
    if spec.item is None and (coroutine is not spec.asynchronous or yields):
        is_ = _ASYNC if coroutine else f"{_ASYNC} with a yield in it" if yields else _PLAIN
        wanted = _ASYNC if spec.asynchronous else _PLAIN
        raise ServiceSignatureError(f"{where} is {is_}, and {spec.title} is {wanted}; write it alike")
    problem = _unlike(list(inspect.signature(function).parameters.values()), spec)
    if problem:
        raise ServiceSignatureError(f"{where} {problem}: {spec.title}{spec.signature}")


def _unlike(own: Sequence[Parameter], spec: MethodSpec) -> str:
    """Say what of a method's parameters is not as the interface has it; ``""`` for nothing."""
    if any(one.kind is Parameter.VAR_POSITIONAL for one in own):
        return ""  # it takes whatever comes
    if not isinstance(own[0] if own else None, Parameter):
        return "has no self"
    rest = own[1:]
    names = {one.name: one for one in rest}
    takes_any = any(one.kind is Parameter.VAR_KEYWORD for one in rest)
    positions = [one.name for one in rest if one.kind is not Parameter.KEYWORD_ONLY]
    for index, wanted in enumerate(spec.parameters):
        found = names.get(wanted.name)
        if found is None:
            if takes_any and wanted.kind is Parameter.KEYWORD_ONLY:
                continue
            return f"has no parameter {wanted.name!r}, which is declared"
        if wanted.kind is not Parameter.KEYWORD_ONLY and (
            index >= len(positions) or positions[index] != wanted.name
        ):
            return f"has the parameter {wanted.name!r} at another place than declared"
        if wanted.kind is not Parameter.POSITIONAL_ONLY and found.kind is Parameter.POSITIONAL_ONLY:
            return f"takes {wanted.name!r} by position alone, which is not declared so"
        if not wanted.required and found.default is Parameter.empty:
            return f"has no default for {wanted.name!r}, which is declared with one"
    declared = {one.name for one in spec.parameters}
    for one in rest:
        needed = one.default is Parameter.empty and one.kind is not Parameter.VAR_KEYWORD
        if one.name not in declared and needed:
            return f"needs {one.name!r}, which is not declared"
    return ""


def other_defaults(cls: type, spec: ServiceSpec) -> Iterator[str]:
    """Yield a sentence for each default of an implementation that is another one than the interface's.

    Who leaves the argument out gets that of the implementation, here and elsewhere; documents, and callers
    that have each argument travel by its position, have that of the interface.
    """
    for method in spec.methods.values():
        function = getattr(cls, method.name)
        own = inspect.signature(function).parameters
        for declared in method.parameters:
            found = own.get(declared.name)
            if found is None or declared.required or _same(found.default, declared.default):
                continue
            yield (
                f"{cls.__qualname__}.{method.name}{place(function)} has the default "
                f"{one_line(repr(found.default), 50)} for {declared.name!r}, and {method.title}"
                f"{place(method.function)} has {one_line(repr(declared.default), 50)}: who leaves it out "
                "gets the first, and is told the second; write them alike"
            )


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # what is compared may be anything
        return False


async def build(cls: Any, the_hub: Any, injector: Injector) -> Any:
    """Return an object of an implementation: its constructor takes the hub, and what is provided by type.

    :raises ServiceSignatureError: something that it takes is provided by nobody.
    """
    sources: dict[str, Any] = {}
    dependencies: list[Dependency] = []
    for one in _constructor(cls):
        if one.name == "hub":
            sources["hub"] = the_hub
        else:
            found, missing = dependencies_of([one], injector.find, cls.__qualname__)
            dependencies += found
            if missing:
                raise _lacking(cls, one.name, "")

    def lack(dependency: Dependency) -> ServiceSignatureError:
        return _lacking(cls, dependency.parameter, written(dependency.annotation))

    sources.update(values_of(dependencies, injector.find, lack, cls.__qualname__))
    return cls(**await injector.fill(sources))


def _constructor(cls: Any) -> Iterator[Parameter]:
    init = cls.__init__
    if not inspect.isfunction(init):
        return
    names = namespaces(init, None)
    for one in list(inspect.signature(init).parameters.values())[1:]:
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            yield one.replace(annotation=resolved(one.annotation, names))


def _lacking(cls: Any, parameter: str, kind: str) -> ServiceSignatureError:
    what = (
        f"a {kind}; call hub.dispatch.init.provide({kind}, ...) before the services start"
        if kind
        else ("which has no annotation of a class that could be provided")
    )
    return ServiceSignatureError(
        f"{cls.__qualname__}{place(cls)}: nothing is provided for {parameter!r}, {what}"
    )
