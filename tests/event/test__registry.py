"""The events that a hub knows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from evbus.errors import HandlerSignatureError, InvalidHeader
from evbus.event._declare import event, listener_spec
from evbus.event._registry import Registry
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


def test_an_event_is_known_by_its_class_and_its_name() -> None:
    registry = Registry()
    assert registry.named("OrderPlaced") is None
    assert registry.of(OrderPlaced) is known(OrderPlaced)
    assert registry.of(OrderPlaced) is registry.named("OrderPlaced")
    assert [spec.name for spec in registry] == ["OrderPlaced"]


def test_registries_share_nothing() -> None:
    one, other = Registry(), Registry()
    one.of(OrderPlaced)
    assert list(other) == []


def test_what_derives_from_a_class_is_found_however_deep() -> None:
    assert [spec.name for spec in Registry().below(Base)] == ["Base", "Left", "Deep"]
    assert [spec.name for spec in Registry().below(Plain)] == ["Deep"]


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

    assert [spec.name for spec in Registry().below(Top)] == ["Both"]


def test_a_listener_wants_an_event_its_subclasses_or_a_name() -> None:
    registry = Registry()
    assert [spec.name for spec in registry.wanted(listener_spec(Base))] == ["Base"]
    assert len(registry.wanted(listener_spec(Base, subclasses=True))) == 3
    (found,) = registry.wanted(listener_spec("Base"))
    assert found.cls is Base
    (found,) = registry.wanted(listener_spec("unknown"))
    assert (found.cls, found.name, found.durable, found.version) == (None, "unknown", False, 1)


def test_an_event_is_sent_with_its_name_and_a_version_that_is_not_the_first() -> None:
    @event(version=2)
    @dataclasses.dataclass
    class Second:
        id: int

    registry = Registry()
    assert dict(registry.kind(OrderPlaced).headers) == {"evbus-message": "OrderPlaced"}
    assert dict(registry.kind(Second).headers) == {"evbus-message": "Second", "evbus-version": "2"}
    assert registry.kinds[Second] is registry.kind(Second)


def test_headers_of_the_sender_are_added_and_cannot_change_the_name() -> None:
    kind = Registry().kind(Book)
    assert kind.headers_with({"a": "b", "evbus-message": "Other"}) == {"a": "b", "evbus-message": "Book"}
    assert dict(kind.headers) == {"evbus-message": "Book"}


@pytest.mark.parametrize("headers", [[("a", "b")], "a", 5])
def test_headers_are_a_mapping(headers: Any) -> None:
    with pytest.raises(InvalidHeader) as caught:
        Registry().kind(Book).headers_with(headers)
    kind = type(headers).__name__
    assert str(caught.value) == f"headers are a mapping of strings to strings, not {kind}"


def test_a_class_that_is_no_event_is_refused_each_time() -> None:
    registry = Registry()
    for _ in range(2):
        with pytest.raises(HandlerSignatureError):
            registry.kind(Plain)
    assert list(registry) == []
