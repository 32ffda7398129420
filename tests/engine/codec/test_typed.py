"""Plain values made into the types that a program declares."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import typing
import uuid
from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]
import msgspec
import pydantic
import pytest

from evbus.engine.codec import json
from evbus.engine.codec import msgpack as codec_msgpack
from evbus.engine.codec.typed import reader, travels
from evbus.errors import InvalidPayload


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    id: int
    items: list[int] = []


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: dt.datetime
    pair: tuple[int, int]


class Picky(pydantic.BaseModel):
    password: str

    @pydantic.field_validator("password")
    @classmethod
    def long(cls, value: str) -> str:
        if len(value) < 20:
            raise ValueError("it is too short")
        return value


class Struct(msgspec.Struct):
    id: int
    name: str = ""


@attrs.define
class Attrs:
    id: int


@dataclasses.dataclass
class Data:
    id: int
    model: Model | None = None
    struct: Struct | None = None


@dataclasses.dataclass
class Rich:
    colour: Colour
    numbers: set[int]
    names: dict[int, str]
    id: uuid.UUID
    price: decimal.Decimal
    at: dt.datetime
    lasts: dt.timedelta
    raw: bytes
    pair: tuple[int, str]
    inner: list[Struct]


class Dict(typing.TypedDict):
    id: int


@dataclasses.dataclass
class Dangling:
    other: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


class Plain:
    pass


RICH = Rich(
    Colour.RED,
    {1, 2},
    {1: "x"},
    uuid.UUID(int=7),
    decimal.Decimal("1.50"),
    dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    dt.timedelta(seconds=1.5),
    b"\xff\0",
    (1, "x"),
    [Struct(1, "x")],
)
NO_INTEGER = "Input should be a valid integer, unable to parse string as an integer"
VALUES = [RICH, Data(1, Model(id=2, items=[3]), Struct(4)), Struct(1), Attrs(1), Model(id=1)]
VALUES.append(Strict(when=dt.datetime(2026, 1, 2), pair=(1, 2)))  # noqa: DTZ001 - pydantic's own


@pytest.mark.parametrize("coding", [json, codec_msgpack], ids=["json", "msgpack"])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_a_serializer_writes_is_read_as_what_it_was(value: Any, coding: Any) -> None:
    assert travels(type(value))
    assert reader(type(value))(coding.load(coding.apply(value))) == value


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (list[Model], [{"id": 1}], [Model(id=1)]),
        (dict[str, Data], {"a": {"id": 1}}, {"a": Data(1)}),
        (Data | None, None, None),
        (Dict, {"id": 1}, {"id": 1}),
        (int, 5, 5),
        (Any, [1, "x"], [1, "x"]),
        (object, {"a": 1}, {"a": 1}),
    ],
)
def test_a_response_may_be_of_any_type_that_has_a_plain_form(kind: Any, value: Any, found: Any) -> None:
    assert reader(kind)(value) == found


@pytest.mark.parametrize("kind", [Plain, Dict, dict, str, object, "Struct", Struct(1), None])
def test_a_class_without_fields_that_are_known_cannot_travel(kind: Any) -> None:
    assert not travels(kind)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Struct, {"id": "hunter22"}, "this is no Struct: Expected `int`, got `str` - at `$.id`"),
        (Struct, [1], "this is no Struct: Expected `object`, got `array`"),
        (Struct, {}, "this is no Struct: Object missing required field `id`"),
        (
            Data,
            {"id": 1, "struct": {}},
            "this is no Data: Object missing required field `id` - at `$.struct`",
        ),
        (
            Data,
            {"id": 1, "model": {"id": "hunter22"}},
            f"this is no Data: {NO_INTEGER} - at `$.id` - at `$.model`",
        ),
        (
            Model,
            {"id": 1, "items": [1, "hunter22"]},
            f"this is no Model: {NO_INTEGER} - at `$.items[1]`",
        ),
        (Model, None, "this is no Model: Input should be a valid dictionary or instance of Model - at `$`"),
        (Picky, {"password": "hunter22"}, "this is no Picky: Value error, it is too short - at `$.password`"),
        (Plain, {"password": "hunter22"}, "this is no Plain: Expected `Plain`, got `dict`"),
        (
            list[Struct],
            {},
            "this is no list[tests.engine.codec.test_typed.Struct]: Expected `array`, got `object`",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_its_place_and_without_its_value(
    kind: Any, value: Any, said: str
) -> None:
    with pytest.raises(InvalidPayload) as caught:
        reader(kind)(value)
    assert str(caught.value) == said
    assert "hunter22" not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(("kind", "problem"), [("Struct", TypeError), (5, TypeError), (Dangling, NameError)])
def test_what_is_no_type_is_told_when_it_is_declared(kind: Any, problem: type[Exception]) -> None:
    with pytest.raises(problem):
        reader(kind)


class Aliased(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


@pytest.mark.parametrize("name", ["order_id", "orderId"])
def test_a_model_is_read_by_the_names_of_its_fields_and_by_their_aliases(name: str) -> None:
    assert reader(Aliased)({name: 1}).order_id == 1


@dataclasses.dataclass
class Numbers:
    small: int
    maybe: int | None
    each: list[int]
    real: float
    either: int | float
    anything: Any


@pytest.mark.parametrize("digits", [False, True])
def test_a_whole_float_is_an_integer_where_one_is_wanted(digits: bool) -> None:
    values = {
        "small": 4294967296.0,
        "maybe": -9007199254740991.0,
        "each": [5.0, 6],
        "real": 5.0,
        "either": 5.0,
        "anything": 5.0,
    }
    by_json, by_msgpack = json.apply(values), msgpack.packb(values)
    assert b"4294967296.0" in by_json
    for plain in ((json.exact_load if digits else json.load)(by_json), codec_msgpack.load(by_msgpack)):
        found = reader(Numbers, digits=digits)(plain)
        assert found == Numbers(4294967296, -9007199254740991, [5, 6], 5.0, 5.0, 5.0)
        assert [type(found.small), type(found.maybe), type(found.each[0])] == [int] * 3
        assert [type(found.real), type(found.either), type(found.anything)] == [float] * 3


@pytest.mark.parametrize("value", [5.5, 9007199254740992.0, float("inf"), float("nan"), "5", True])
@pytest.mark.parametrize("digits", [False, True])
def test_a_float_that_is_no_integer_or_may_stand_for_another_is_refused(value: Any, digits: bool) -> None:
    with pytest.raises(InvalidPayload, match="Expected `int`"):
        reader(Struct, digits=digits)({"id": value})


@attrs.define
class Checked:
    to: str = attrs.field(default="a", validator=attrs.validators.matches_re("[a-z (]+"))
    low: int = attrs.field(default=1, validator=attrs.validators.lt(5))
    one: Any = attrs.field(default=1, validator=attrs.validators.in_([1, "a"]))
    text: Any = attrs.field(default="", validator=attrs.validators.instance_of(str))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("to", "ann@example.org", "'to' must match regex '[a-z (]+'"),
        ("low", 987654, "'low' must be < 5"),
        ("one", "ann@example.org", "'one' must be in [1, 'a']"),
        ("text", ["ann@example.org"], "'text' must be <class 'str'>"),
    ],
)
def test_what_a_validator_of_attrs_says_is_told_without_the_value(field: str, value: Any, said: str) -> None:
    for kind, values, place in (
        (Checked, {field: value}, ""),
        (list[Checked], [{field: value}], " - at `$[0]`"),
    ):
        with pytest.raises(InvalidPayload) as caught:
            reader(kind)(values)
        name = "Checked" if kind is Checked else str(kind)
        assert str(caught.value) == f"this is no {name}: {said}{place}"
