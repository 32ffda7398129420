"""Interfaces, components and implementations: what they are called, and what is refused of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest

from evbus.engine.service.declare import (
    AbstractComponent,
    Component,
    ComponentStatus,
    Service,
    component,
    implementation,
    interfaces_of,
    is_implementation,
    kebab,
    method,
    service,
    service_spec,
)
from evbus.errors import ConfigError, ServiceError, ServiceSignatureError
from tests.engine.service.kit import Shop, ShopImpl


class Nothing:
    pass


def refused(declare: Callable[[], Any], said: str) -> None:
    with pytest.raises(ServiceSignatureError) as problem:
        declare()
    assert str(problem.value) == said
    assert isinstance(problem.value, ConfigError)
    assert isinstance(problem.value, ServiceError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ShopService", "shop-service"),
        ("Shop", "shop"),
        ("HTTPShop", "http-shop"),
        ("ShopV2API", "shop-v2-api"),
        ("my_shop", "my-shop"),
    ],
)
def test_names_on_the_wire_are_made_of_those_of_classes(name: str, expected: str) -> None:
    assert kebab(name) == expected


def test_an_interface_has_a_name_and_a_description_and_its_public_methods() -> None:
    spec = service_spec(Shop)
    assert (spec.name, spec.description) == ("shop", "Sells items.")
    assert list(spec.methods) == ["order", "price", "find", "fail", "every", "total"]
    assert [one.name for one in spec.methods.values() if one.streams] == ["every", "total"]
    assert [one.name for one in spec.methods.values() if not one.asynchronous] == ["price"]


def test_methods_of_interfaces_above_belong_to_it() -> None:
    class Base(Service):
        @abstractmethod
        async def one(self) -> int: ...

    @service("more", "Does more.")
    class More(Base):
        @abstractmethod
        async def two(self) -> str: ...

    spec = service_spec(More)
    assert (spec.name, spec.description, list(spec.methods)) == ("more", "Does more.", ["one", "two"])


def test_classes_of_a_function_may_stand_in_annotations() -> None:
    class Local(Nothing):
        pass

    @service()
    class Uses(Service):
        async def call(self, local: Annotated[int, Local]) -> None: ...

    (parameter,) = service_spec(Uses).methods["call"].parameters
    assert (parameter.type, parameter.metadata) == (int, (Local,))


def test_a_name_that_never_means_anything_is_named_when_it_is_needed() -> None:
    @service()
    class Strange(Service):
        async def call(self, value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ServiceSignatureError, match="Strange: the name Missing in an annotation means noth"):
        _ = service_spec(Strange).methods


def test_an_implementation_says_what_it_implements() -> None:
    assert is_implementation(ShopImpl)
    assert not is_implementation(Shop)
    assert interfaces_of(ShopImpl) == [service_spec(Shop)]

    class Derived(ShopImpl):
        pass

    assert not is_implementation(Derived)


def test_a_component_lists_its_services() -> None:
    @service()
    class Listed(Service):
        async def call(self) -> None: ...

    @component("the-store", "All of it.", services=[Listed])
    class Store(Component):
        pass

    @implementation()
    class StoreImpl(AbstractComponent, Store):
        pass

    (spec,) = interfaces_of(StoreImpl)
    assert spec == (Store, "the-store", "All of it.", (Listed,))
    assert service_spec(Listed).component == "the-store"
    made = StoreImpl()
    assert (made.get_status(), made.get_addresses(80)) == (ComponentStatus.VIRGIN, None)
    assert (made.startup(), made.shutdown()) == (None, None)


# What is refused, each by its sentence


def test_a_class_that_is_no_interface_is_refused() -> None:
    refused(
        lambda: service()(Nothing), f"@service() stands on a class that derives from Service, not {Nothing!r}"
    )
    refused(lambda: service()(5), "@service() stands on a class that derives from Service, not 5")  # type: ignore[type-var]
    refused(
        lambda: component()(Nothing),
        f"@component() stands on a class that derives from Component, not {Nothing!r}",
    )
    refused(lambda: service_spec(Nothing), "Nothing is no interface: it has no @service()")
    refused(lambda: service_spec(5), "5 is no interface: it has no @service()")
    refused(
        lambda: implementation()(Nothing),
        "Nothing implements nothing: it derives from no class with @service() or @component()",
    )


def test_a_service_that_a_component_lists_has_to_be_one() -> None:
    class Listing(Component):
        pass

    refused(lambda: component(services=[Nothing])(Listing), "Nothing is no interface: it has no @service()")


def test_decorators_want_their_brackets() -> None:
    refused(lambda: service(Nothing), "write @service() with its brackets on Nothing")  # type: ignore[arg-type]
    refused(lambda: component(Nothing), "write @component() with its brackets on Nothing")  # type: ignore[arg-type]
    refused(lambda: implementation(Nothing), "write @implementation() with its brackets on Nothing")  # type: ignore[arg-type]
    refused(lambda: method(len), "write @method() with its brackets on len")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a:b", "a/b", "-a", "a b", "ä", 5])
def test_a_name_that_cannot_stand_on_the_wire_is_refused(name: Any) -> None:
    class Named(Service):
        pass

    refused(
        lambda: service(name)(Named),
        f"{Named.__qualname__}: a name is made of letters, digits, and - _ . between them, and not {name!r}",
    )


def with_method(function: Any) -> Callable[[], Any]:
    return lambda: service()(type("Bad", (Service,), {"call": function, "__module__": __name__}))


async def takes_object(self: Any, value: Nothing) -> None: ...


async def returns_object(self: Any) -> list[Nothing]: ...


async def takes_function(self: Any, value: Callable[[], int]) -> None: ...


async def takes_any_number(self: Any, *values: int) -> None: ...


async def takes_any_name(self: Any, **values: int) -> None: ...


async def two_streams(self: Any, a: AsyncIterator[int], b: AsyncIterator[int]) -> None: ...


async def returns_function(self: Any) -> len: ...  # type: ignore[valid-type]


async def has_no_self() -> None: ...


async def returns_stream(self: Any) -> AsyncIterator[int]: ...


HOW = "use plain values, dataclasses, Structs or pydantic models"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            takes_object,
            "its argument 'value', Nothing, cannot travel: nothing says how Nothing is written and read; "
            + HOW,
        ),
        (
            returns_object,
            r"its result, list\[.*Nothing\], cannot travel: nothing says how Nothing is written .*; " + HOW,
        ),
        (returns_function, "its result, .*len.*, cannot travel: .* is not supported; " + HOW),
        (takes_function, "its argument 'value', .*Callable.*, cannot travel: nothing says .*; " + HOW),
        (
            takes_any_number,
            r"\*values: 'int' takes any number of arguments, which no caller elsewhere can be told of; .*",
        ),
        (takes_any_name, r"\*\*values: 'int' takes any number of arguments, .*"),
        (two_streams, "one of its arguments can be a stream, and it has several"),
    ],
)
def test_a_method_that_cannot_travel_is_named_at_its_declaration(function: Any, said: str) -> None:
    with pytest.raises(ServiceSignatureError, match=f"^Bad.call: {said}$"):
        with_method(function)()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            returns_stream,
            r"returns a stream: write `def call\(...\) -> AsyncIterator\[...\]`, without async, .*",
        ),
        (has_no_self, "has no self, which is the first parameter of a method"),
        (property(lambda self: 5), r"is a property; an interface has methods, whose first parameter is self"),
        (staticmethod(takes_object), r"is a staticmethod; an interface has methods, .*"),
    ],
)
def test_what_is_no_method_is_named_at_its_declaration(function: Any, said: str) -> None:
    with pytest.raises(ServiceSignatureError, match=f"^Bad.call {said}$"):
        with_method(function)()


@pytest.mark.parametrize("value", [0, -1, True, "5", float("inf"), float("nan")])
def test_seconds_are_numbers_above_0(value: Any) -> None:
    said = f"is a number of seconds above 0, and not {value!r}"
    refused(lambda: method(timeout=value)(takes_object), f"takes_object: timeout {said}")
    refused(
        lambda: method(hedge_after=value, idempotent=True)(takes_object), f"takes_object: hedge_after {said}"
    )


def test_only_what_is_idempotent_is_sent_twice() -> None:
    refused(
        lambda: method(hedge_after=1)(takes_object),
        "takes_object: hedge_after sends a request twice, and so is for what is idempotent: add "
        "idempotent=True",
    )


@pytest.mark.parametrize("value", [[Nothing], [5], int, ["x"], [BaseException]])
def test_what_may_be_raised_is_a_list_of_exceptions(value: Any) -> None:
    with pytest.raises(
        ServiceSignatureError, match="takes_object: raises is a list of exception classes, and has"
    ):
        method(raises=value)(takes_object)
