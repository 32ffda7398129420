"""Events and listeners as they are declared."""

from __future__ import annotations

import dataclasses
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from evbus.engine.codec.typed import reader
from evbus.engine.handling.events.declare import (
    LISTENS,
    EventListener,
    Retries,
    event,
    event_listener,
    listener_spec,
    spec_of,
)
from evbus.engine.handling.events.registry import EventTypes
from tests.evbus.rig import failure
from tests.event.kit import Book, Measured, Named, OrderPlaced, Tree, known


@pytest.mark.parametrize("cls", [OrderPlaced, Tree, Book, Measured, Named], ids=lambda cls: cls.__name__)
def test_every_kind_of_class_can_be_an_event_called_as_it_is(cls: Any) -> None:
    spec = known(cls)
    assert (spec.cls, spec.name, spec.durable, spec.broadcast) == (cls, cls.__name__, False, False)
    assert (spec.version, spec.upcast) == (1, None)


def test_an_event_has_the_name_that_it_is_given() -> None:
    def upcast(version: int, values: dict[str, Any]) -> dict[str, Any]:
        return values

    @event("order.placed", durable=True, broadcast=True, version=3, upcast=upcast)
    @dataclasses.dataclass
    class Placed:
        id: int

    spec = known(Placed)
    assert (spec.name, spec.durable, spec.broadcast, spec.version) == ("order.placed", True, True, 3)
    assert spec.upcast is upcast


def test_a_class_that_derives_from_an_event_is_none_until_it_is_declared_itself() -> None:
    @dataclasses.dataclass
    class Sub(Tree):
        pass

    assert spec_of(Sub) is None
    assert spec_of(42) is None


def test_a_dataclass_with_slots_and_a_frozen_struct_can_be_events() -> None:
    @event()
    @dataclasses.dataclass(slots=True)
    class Slotted:
        id: int

    @event()
    class Frozen(msgspec.Struct, frozen=True):
        id: int

    assert known(Slotted).cls is Slotted
    assert known(Frozen).cls is Frozen


@pytest.mark.parametrize(
    "made",
    [
        dataclasses.dataclass,
        dataclasses.dataclass(frozen=True),
        dataclasses.dataclass(slots=True),
        attrs.define,
        attrs.frozen,
        pydantic.dataclasses.dataclass,
    ],
)
def test_what_makes_the_fields_may_stand_above_the_event(made: Any) -> None:
    class Base:
        pass

    @made
    @event("placed", durable=True)
    class Placed(Base):
        id: int

    registry = EventTypes()
    (spec,) = registry.below(Base)
    assert spec is registry.of(Placed) is registry.named("placed")
    assert (spec.cls, spec.durable) == (Placed, True)
    assert reader(Placed)({"id": 5}) == Placed(5)


def test_fields_that_a_class_adds_to_those_of_its_base_may_be_made_above_the_event() -> None:
    @event("base")
    @dataclasses.dataclass
    class Base:
        id: int

    @dataclasses.dataclass
    @event("more")
    class More(Base):
        total: float

    assert EventTypes().of(More).name == "more"
    assert reader(More)({"id": 5, "total": 1.5}) == More(5, 1.5)


def test_a_listener_listens_to_each_event_that_it_was_told_from_top_to_bottom() -> None:
    @event_listener(OrderPlaced, name="first")
    @event_listener(Book, "second", group="readers", per_process=True, concurrency=4)
    async def on(event: Any) -> None: ...

    first, second = getattr(on, LISTENS)
    assert (first.event, first.name, first.group, first.per_process) == (OrderPlaced, "first", "", False)
    assert (second.event, second.name, second.group, second.per_process) == (Book, "second", "readers", True)
    assert (first.concurrency, second.concurrency) == (1, 4)


def test_a_class_that_derives_from_a_listener_does_not_listen_itself() -> None:
    @event_listener(OrderPlaced)
    class First(EventListener[OrderPlaced]):
        def on(self, event: OrderPlaced) -> None: ...

    @event_listener(Book)
    class Second(First):
        pass

    assert [spec.event for spec in getattr(First, LISTENS)] == [OrderPlaced]
    assert [spec.event for spec in getattr(Second, LISTENS)] == [Book]


def test_retries_are_given_as_such_or_as_a_mapping() -> None:
    assert listener_spec(OrderPlaced).retry == Retries(attempts=3, min=0.1, max=10.0)
    assert listener_spec(OrderPlaced, retry={"attempts": 7}).retry == Retries(attempts=7)
    assert listener_spec(OrderPlaced, retry=Retries(attempts=0)).retry.attempts == 0


def test_the_base_of_listeners_says_what_is_missing() -> None:
    class Lazy(EventListener[OrderPlaced]):
        pass

    assert failure(NotImplementedError, Lazy().on, OrderPlaced()).endswith("Lazy has no on(self, event)")
