"""The events that a hub knows."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest

from evbus.engine.handling.events.declare import event, listener_spec
from evbus.engine.handling.events.registry import EventTypes
from evbus.errors import HandlerSignatureError, InvalidHeader
from tests.event.kit import Book, OrderPlaced, known


@event()
@dataclasses.dataclass
class Base:
    id: int


@event()
@dataclasses.dataclass
class Left(Base):
    pass


@dataclasses.dataclass
class Plain(Left):
    """Not declared itself."""


@event()
@dataclasses.dataclass
class Deep(Plain):
    pass


@event("registry.Left")
@dataclasses.dataclass
class Declared:
    id: int = 0


@pytest.fixture
def registry() -> EventTypes:
    return EventTypes()


def test_an_event_is_known_by_its_class_and_its_name(registry: EventTypes) -> None:
    assert registry.named("OrderPlaced") is None
    assert registry.of(OrderPlaced) is known(OrderPlaced)
    assert registry.of(OrderPlaced) is registry.named("OrderPlaced")
    assert [spec.name for spec in registry] == ["OrderPlaced"]


def test_a_class_that_is_only_declared_is_found_by_its_name(registry: EventTypes) -> None:
    assert registry.named("registry.Left") is None
    found = registry.found("registry.Left")
    assert found is not None
    assert found.cls is Declared
    assert registry.named("registry.Left") is found
    assert registry.found("registry.nothing") is None


@pytest.mark.parametrize("above", [True, False])
def test_the_class_is_the_one_that_its_slots_made(above: bool) -> None:
    class Own:
        id: int = 0

    def slots(cls: Any) -> Any:
        return dataclasses.dataclass(slots=True)(cls)

    name = f"registry.slots.{above}"
    made = event(name)(slots(Own)) if above else slots(event(name)(Own))
    found = EventTypes().found(name)
    assert found is not None
    assert found.cls is made


def test_two_classes_of_one_name_are_none_until_one_is_used(registry: EventTypes) -> None:
    def make() -> Any:
        @event("registry.twice")
        @dataclasses.dataclass
        class Twice:
            id: int = 0

        return Twice

    first, second = make(), make()
    assert registry.found("registry.twice") is None
    assert registry.of(second) is registry.found("registry.twice")
    del first


def test_a_class_that_nobody_has_any_more_is_forgotten() -> None:
    event("registry.gone")(dataclasses.make_dataclass("Gone", [("id", int)]))
    gc.collect()
    assert EventTypes().found("registry.gone") is None


def test_a_class_that_cannot_be_read_is_not_found() -> None:
    @event("registry.torn")
    @dataclasses.dataclass
    class Torn:
        nothing: "NoSuchName"  # type: ignore[name-defined]  # noqa: F821, UP037

    assert EventTypes().found("registry.torn") is None
    with pytest.raises(HandlerSignatureError):
        EventTypes().of(Torn)


def test_registries_share_nothing() -> None:
    one, other = EventTypes(), EventTypes()
    one.of(OrderPlaced)
    assert list(other) == []


def test_what_derives_from_a_class_is_found_however_deep() -> None:
    assert [spec.name for spec in EventTypes().below(Base)] == ["Base", "Left", "Deep"]
    assert [spec.name for spec in EventTypes().below(Plain)] == ["Deep"]


def test_a_class_with_two_bases_is_found_once() -> None:
    class Top:
        pass

    class A(Top):
        pass

    class B(Top):
        pass

    @event()
    @dataclasses.dataclass
    class Both(A, B):
        id: int

    assert [spec.name for spec in EventTypes().below(Top)] == ["Both"]


def test_a_listener_wants_an_event_its_subclasses_or_a_name(registry: EventTypes) -> None:
    assert [spec.name for spec in registry.wanted(listener_spec(Base))] == ["Base"]
    assert len(registry.wanted(listener_spec(Base, subclasses=True))) == 3
    (found,) = registry.wanted(listener_spec("Base"))
    assert found.cls is Base
    (found,) = registry.wanted(listener_spec("unknown"))
    assert (found.cls, found.name, found.durable, found.version) == (None, "unknown", False, 1)


def test_an_event_is_sent_with_its_name_and_a_version_that_is_not_the_first(registry: EventTypes) -> None:
    @event(version=2)
    @dataclasses.dataclass
    class Second:
        id: int

    assert dict(registry.kind(OrderPlaced).headers) == {"evbus-message": "OrderPlaced"}
    assert dict(registry.kind(Second).headers) == {"evbus-message": "Second", "evbus-version": "2"}
    assert registry.kinds[Second] is registry.kind(Second)


def test_headers_of_the_sender_are_added_and_cannot_change_the_name() -> None:
    kind = EventTypes().kind(Book)
    assert kind.headers_with({"a": "b", "evbus-message": "Other"}) == {"a": "b", "evbus-message": "Book"}
    assert dict(kind.headers) == {"evbus-message": "Book"}


@pytest.mark.parametrize("headers", [[("a", "b")], "a", 5])
def test_headers_are_a_mapping(headers: Any) -> None:
    with pytest.raises(InvalidHeader) as caught:
        EventTypes().kind(Book).headers_with(headers)
    kind = type(headers).__name__
    assert str(caught.value) == f"headers are a mapping of strings to strings, not {kind}"


def test_a_class_that_is_no_event_is_refused_each_time(registry: EventTypes) -> None:
    for _ in range(2):
        with pytest.raises(HandlerSignatureError):
            registry.kind(Plain)
    assert list(registry) == []
