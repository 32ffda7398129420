"""Which classes can be events."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from evbus.engine.handling.events.shape import check_declared, check_fields, fields_of
from evbus.errors import HandlerSignatureError
from tests.evbus.rig import failure
from tests.event.kit import Book, Colored, Leaf, Measured, Named, OrderPlaced, Tree, Valued


class Socket:
    pass


class Odd(enum.Enum):
    ONE = 1


class Pair(NamedTuple):
    first: int
    second: Socket


def dataclass_of(kind: Any) -> Any:
    return dataclasses.make_dataclass("Holder", [("what", kind)])


@pytest.mark.parametrize(
    "cls", [OrderPlaced, Tree, Valued, Book, Measured, Named, Colored], ids=lambda cls: cls.__name__
)
def test_what_can_be_written_down_is_taken(cls: Any) -> None:
    check_fields(cls)


@pytest.mark.parametrize(
    "kind",
    [int, Any, list[Leaf], dict[int, Leaf], Odd, Leaf | None, tuple[int, ...], Book, list[Book]],
    ids=str,
)
def test_a_field_may_be(kind: Any) -> None:
    check_fields(dataclass_of(kind))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Socket, "Socket"),
        (complex, "complex"),
        (list[Socket], "Socket"),
        (dict[str, Socket], "Socket"),
        (tuple[int, Socket], "Socket"),
        (set[Socket], "Socket"),
        (Socket | None, "Socket"),
    ],
    ids=str,
)
def test_a_field_may_not_be(kind: Any, named: str) -> None:
    assert failure(HandlerSignatureError, check_fields, dataclass_of(kind)) == (
        f"the event Holder: the field what is a {named}, which cannot be encoded; make that a dataclass or a "
        "plain value"
    )


@pytest.mark.parametrize("inner", [Pair, dataclasses.make_dataclass("In", [("second", Socket)])])
def test_the_path_leads_to_a_field_within(inner: Any) -> None:
    with pytest.raises(
        HandlerSignatureError, match=r"the event Holder: the field what\.second is a Socket, which"
    ):
        check_fields(dataclass_of(inner))


def test_structs_and_attrs_classes_are_looked_at_as_well() -> None:
    class Struct(msgspec.Struct):
        what: Socket

    @attrs.define
    class Attrs:
        what: Socket

    for cls in (Struct, Attrs):
        cls.__annotations__["what"] = Socket
        with pytest.raises(HandlerSignatureError, match="the field what is a Socket"):
            check_fields(cls)


def test_what_msgspec_refuses_is_told_in_its_words() -> None:
    with pytest.raises(HandlerSignatureError, match=r"the event Holder: .*more than one") as caught:
        check_fields(dataclass_of(int | float | Leaf | Tree))
    assert "Holder" in str(caught.value)


def test_a_name_that_comes_further_down_may_do_by_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = dataclasses.make_dataclass("Holder", [("what", "DefinedLater")])
    holder.__module__ = __name__
    check_declared(holder)
    with pytest.raises(HandlerSignatureError, match="the field what cannot be read, as the name Def"):
        check_fields(holder)
    monkeypatch.setitem(globals(), "DefinedLater", Leaf)
    check_fields(holder)


@pytest.mark.parametrize("cls", [Socket, Pair, int, Odd, 42, Callable], ids=str)
def test_other_classes_are_refused(cls: Any) -> None:
    name = getattr(cls, "__qualname__", repr(cls))
    assert failure(HandlerSignatureError, check_fields, cls) == (
        f"{name} cannot be an event: it is no dataclass, msgspec Struct, attrs class or pydantic model; put "
        "@dataclass above it"
    )


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (OrderPlaced, ["id", "total"]),
        (Book, ["title", "pages", "at"]),
        (Measured, ["value", "unit"]),
        (Named, ["name", "other"]),
        (Socket, []),
    ],
)
def test_the_fields_of_every_kind_have_names(cls: Any, names: list[str]) -> None:
    assert fields_of(cls) == names


def test_a_pydantic_model_refuses_such_fields_itself() -> None:
    with pytest.raises(pydantic.PydanticSchemaGenerationError):
        pydantic.create_model("Model", what=(Socket, ...))


class Login(pydantic.BaseModel):
    token: pydantic.SecretStr


@pydantic.dataclasses.dataclass
class Order:
    count: int = 1


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Login, "the event Login: the field token is a SecretStr, which is written as asterisks"),
        (
            dataclass_of(list[Login]),
            "the event Holder: the field what.token is a SecretStr, which is written as asterisks",
        ),
        (
            pydantic.create_model("Left", id=(int, pydantic.Field(exclude=True))),
            (
                "the event Left: the field id is left out when the event is written (exclude=True), so that "
                "no listener gets it"
            ),
        ),
        (
            dataclass_of(Order | None),
            (
                "the event Holder: the field what is a Order, a dataclass of pydantic's, which would not "
                "validate itself there; make it a model, or the event a dataclass of pydantic's or a model"
            ),
        ),
        (
            dataclass_of(dict[bool, int]),
            (
                "the event Holder: the field what has keys that are no texts, numbers, dates or the like; no "
                "JSON can be read as them"
            ),
        ),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else None,
)
def test_what_would_not_come_back_is_refused(cls: Any, said: str) -> None:
    assert failure(HandlerSignatureError, check_fields, cls) == said


def test_a_dataclass_of_pydantic_s_is_an_event() -> None:
    check_fields(Order)
    check_fields(pydantic.dataclasses.dataclass(dataclass_of(Order)))
    assert fields_of(Order) == ["count"]
