"""JSON Schemas of events: what the serializer writes is what they describe."""

from __future__ import annotations

import datetime as dt
import enum
import json
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

import attrs
import msgspec
import pydantic
import pydantic.alias_generators
import pydantic.dataclasses
import pytest
from jsonschema import Draft7Validator

from evbus.api import event
from evbus.engine.codec.json import apply
from evbus.engine.describe.asyncapi_schema import payloads
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.handling.events.registry import EventTypes
from evbus.errors import ConfigError


class Currency(enum.Enum):
    EUR = "EUR"
    USD = "USD"


@dataclass
class Line:
    """One line

    of an order."""

    article: str
    parts: list[Line] = field(default_factory=list)


class Card(msgspec.Struct, tag=True):
    number: str


class Transfer(msgspec.Struct, tag=True):
    iban: str


@event("orders.placed")
@dataclass(slots=True)
class Placed:
    id: uuid.UUID
    at: dt.datetime
    day: dt.date
    every: dt.timedelta
    total: Decimal
    document: bytes
    currency: Currency
    first: Line
    by: Card | Transfer
    pair: tuple[int, dt.datetime]
    tags: set[str]
    seen: dict[str, list[dt.datetime | None]]
    until: dt.datetime | None = None
    other: Currency = Currency.USD
    noon: Annotated[dt.time | None, msgspec.Meta(description="local")] = None
    rate: float = float("nan")
    # Fields that are called like words of JSON Schema.
    discriminator: str = "d"
    items: int = 1


@event()
class Struct(msgspec.Struct, rename="camel"):
    some_name: int


@event()
@attrs.define
class Attrs:
    number: int


class Inner(pydantic.BaseModel):
    currency: Currency = Currency.EUR


@event()
class Model(pydantic.BaseModel):
    """A model."""

    id: uuid.UUID
    total: Decimal
    at: dt.datetime
    pair: tuple[int, str] = (1, "a")
    every: dt.timedelta = dt.timedelta(1)
    inner: Inner = pydantic.Field(default=Inner(), description="within")
    more: list[Model] = []


@event()
class Camel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        serialize_by_alias=True, alias_generator=pydantic.alias_generators.to_camel, validate_by_name=True
    )
    order_id: str
    inner: Inner
    raw_bytes: bytes

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> str:
        return 2 * self.order_id


@event()
@pydantic.dataclasses.dataclass
class Counted:
    count: int = pydantic.Field(gt=0)
    note: str = pydantic.Field(default="", alias="remark")


CAMEL = Camel(order_id="x", inner=Inner(), raw_bytes=b"\xff")
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
PLACED = Placed(
    id=uuid.UUID(int=1),
    at=NOW,
    day=NOW.date(),
    every=dt.timedelta(seconds=90),
    total=Decimal("9.50"),
    document=b"\0\1",
    currency=Currency.EUR,
    first=Line("a", [Line("b")]),
    by=Card("1"),
    pair=(1, NOW),
    tags={"x"},
    seen={"a": [NOW, None]},
    rate=1.0,
)
MODEL = Model(id=uuid.UUID(int=1), total=Decimal("1.5"), at=NOW)
EVENTS: list[Any] = [
    PLACED,
    Struct(1),
    Attrs(1),
    MODEL.model_copy(update={"more": [MODEL]}),
    CAMEL,
    Counted(count=1),
]


def described(*classes: type) -> tuple[dict[str, Any], dict[str, Any]]:
    registry = EventTypes()
    return payloads([registry.of(cls) for cls in classes])


def validator(cls: type, *others: type) -> Draft7Validator:
    schemas, components = described(cls, *others)
    (name,) = (EventTypes().of(cls).name,)
    whole = {**schemas[name], "components": {"schemas": components}}
    if "$ref" in whole:
        whole = {"allOf": [{"$ref": whole.pop("$ref")}], **whole}
    Draft7Validator.check_schema(whole)
    return Draft7Validator(whole, format_checker=Draft7Validator.FORMAT_CHECKER)


@pytest.mark.parametrize("example", EVENTS, ids=lambda example: type(example).__name__)
def test_what_is_written_fits_and_what_lacks_a_field_does_not(example: Any) -> None:
    check = validator(type(example), *(type(each) for each in EVENTS if each is not example))
    written = json.loads(apply(example))
    assert [error.message for error in check.iter_errors(written)] == []
    del written[next(iter(written))]
    assert any("is a required property" in error.message for error in check.iter_errors(written))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("currency", "XXX"),
        ("first", {"article": "a", "parts": [{"article": 1}]}),
        ("by", {"type": "Cash"}),
        ("pair", [1]),
        ("pair", [1, "2026-01-01T00:00:00Z", 2]),
        ("day", "tomorrow"),
        ("seen", {"a": [1]}),
        ("id", 1),
    ],
)
def test_what_does_not_fit_is_refused(key: str, value: Any) -> None:
    written = json.loads(apply(PLACED))
    assert not validator(Placed).is_valid({**written, key: value})


def test_a_text_has_the_format_that_every_value_has() -> None:
    found = described(Placed)[1]["Placed"]["properties"]
    assert found["at"] == {"type": "string"}
    assert found["document"] == {"type": "string", "contentEncoding": "base64"}

    @event()
    @dataclass
    class Timed:
        naive: dt.datetime
        aware: Annotated[dt.datetime, msgspec.Meta(tz=True)]
        time: dt.time
        day: dt.date
        took: dt.timedelta

    @event()
    class TimedModel(pydantic.BaseModel):
        naive: dt.datetime
        aware: pydantic.AwareDatetime
        time: dt.time
        day: dt.date
        took: dt.timedelta

    values = {
        "naive": dt.datetime.fromisoformat("2026-01-02T03:04:05"),
        "aware": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "time": dt.time(3, 4, 5),
        "day": dt.date(2026, 1, 2),
        "took": dt.timedelta(seconds=-90.5),
    }
    for kind in (Timed, TimedModel):
        _, components = described(kind)
        found = components[kind.__name__]["properties"]
        formats = {name: found[name].get("format") for name in values}
        assert formats == {"naive": None, "aware": "date-time", "time": None, "day": "date", "took": None}
        assert validator(kind).is_valid(json.loads(apply(kind(**values))))


def test_a_reference_stands_alone_as_draft_7_wants_it() -> None:
    found = described(Placed)[1]["Placed"]["properties"]
    assert found["other"] == {"allOf": [{"$ref": "#/components/schemas/Currency"}], "default": "USD"}
    assert found["currency"] == {"$ref": "#/components/schemas/Currency"}


def test_words_of_json_schema_may_be_names_of_fields() -> None:
    found = described(Placed)[1]["Placed"]["properties"]
    assert found["discriminator"] == {"type": "string", "default": "d"}
    assert found["items"] == {"type": "integer", "default": 1}


def test_a_default_that_json_cannot_say_is_left_out() -> None:
    found = described(Placed)[1]["Placed"]["properties"]
    assert found["rate"] == {"type": "number"}


def test_docstrings_are_descriptions_and_those_that_python_makes_up_are_not() -> None:
    found = described(Placed)[1]
    assert "description" not in found["Placed"]
    assert found["Line"]["description"] == "One line\n\nof an order."
    assert described(Model)[1]["Model"]["description"] == "A model."


def test_an_enumeration_that_msgspec_and_pydantic_describe_stands_there_once() -> None:
    components = described(Placed, Model)[1]
    assert sorted(components) == sorted(["Card", "Currency", "Inner", "Line", "Model", "Placed", "Transfer"])


def test_two_types_of_one_name_are_kept_apart() -> None:
    inner = dataclass(type("Inner", (), {"__annotations__": {"x": int}, "__module__": "a"}))
    outer = type("Outer", (), {"__annotations__": {"inner": inner}, "__module__": "a"})
    schemas, components = described(event()(dataclass(outer)), Model)
    assert components["Outer"]["properties"]["inner"] == {"$ref": "#/components/schemas/Inner"}
    assert components["Inner"]["properties"] == {"x": {"type": "integer"}}
    assert components["Model"]["properties"]["inner"]["allOf"] == [{"$ref": "#/components/schemas/Inner-2"}]
    assert "currency" in components["Inner-2"]["properties"]
    assert schemas["Model"] == {"$ref": "#/components/schemas/Model"}


def test_an_event_that_is_known_by_its_name_has_no_schema() -> None:
    assert payloads([EventSpec(None, "elsewhere", False, False, 1, None)]) == ({}, {})


@event()
@dataclass
class Unfinished:
    part: NotThere  # type: ignore[name-defined]  # noqa: F821 - that is the point


class Strange(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    part: EventTypes


@pytest.mark.parametrize("cls", [Unfinished, Strange])
def test_an_event_that_cannot_be_described_is_named(cls: type) -> None:
    with pytest.raises(ConfigError, match=f"the event {cls.__name__} has no JSON Schema: "):
        payloads([EventSpec(cls, cls.__name__, False, False, 1, None)])


def test_a_model_is_described_by_the_names_that_are_written_and_without_what_is_computed() -> None:
    names = described(Camel, Model)[1]
    assert sorted(names["Camel"]["properties"]) == ["inner", "orderId", "rawBytes"]
    assert names["Camel"]["required"] == ["orderId", "inner", "rawBytes"]
    assert names["Camel"]["properties"]["rawBytes"]["contentEncoding"] == "base64"
    assert sorted(json.loads(apply(CAMEL))) == sorted(names["Camel"]["properties"])
    assert sorted(names) == ["Camel", "Currency", "Inner", "Model"]


def test_a_dataclass_of_pydantic_s_is_described_with_its_constraints() -> None:
    found = described(Counted)[1]["Counted"]["properties"]
    assert (found["count"]["exclusiveMinimum"], sorted(found)) == (0, ["count", "note"])
