"""Events out of what was received."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from evbus.engine.codec import json, msgpack
from evbus.engine.handling.events import reader as events_reader
from evbus.engine.handling.events.declare import EventSpec, event, listener_spec
from evbus.engine.handling.events.reader import NAME, Loader, Reader
from evbus.engine.handling.events.registry import EventTypes, named_only
from evbus.errors import InvalidPayload
from evbus.types import Envelope, OwnHeaders, SharedHeaders
from tests.counting import steps
from tests.event.kit import (
    Book,
    Color,
    Colored,
    Leaf,
    Measured,
    Named,
    OrderPlaced,
    Tree,
    Valued,
    known,
)

JSON, MSGPACK = "application/json", "application/msgpack"
LOADERS = {JSON: Loader(json.load, json.typed, json.exact_load), MSGPACK: Loader(msgpack.load)}
VALUED = Valued(
    color=Color.BLUE,
    at=dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
    day=dt.date(2026, 1, 2),
    lasts=dt.timedelta(hours=1, microseconds=5),
    id=uuid.UUID(int=7),
    price=decimal.Decimal("9.90"),
    raw=b"\x00\xff",
    tags={"a", "b"},
    pair=(1, "one"),
)
TREE = Tree(Leaf(1), "x", Tree(Leaf(2, "two"), 5), [Leaf(3)], {"four": Leaf(4)})


@event(version=3, upcast=lambda version, values: {"name": f"{values['title']} of {version}"})
@dataclasses.dataclass
class Third:
    name: str
    more: int = 0


@event()
@dataclasses.dataclass
class Paid:
    total: decimal.Decimal


@event()
@dataclasses.dataclass
class PaidNoted:
    total: decimal.Decimal
    note: str = ""
    rate: float = 0.0


@event()
class Charged(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    total: decimal.Decimal
    paid: PaidNoted | None = None
    rate: float = 0.0
    other: Any = None
    listed: list = []  # type: ignore[type-arg]


@event()
class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    total: decimal.Decimal
    at: dt.date
    rate: float = 0.0
    other: Any = None


@event()
@pydantic.dataclasses.dataclass
class Ordered:
    count: int = pydantic.Field(gt=0)
    note: str = pydantic.Field(default="none", alias="remark")


@event()
@dataclasses.dataclass
class Both:
    charged: Charged
    total: decimal.Decimal


@event("raised", version=2, upcast=lambda version, values: {"total": values["sum"], "rate": values["sum"]})
@dataclasses.dataclass
class Raised:
    total: decimal.Decimal
    rate: float = 0.0
    note: str = ""


@event("held")
@dataclasses.dataclass
class Holder:
    leaf: Leaf
    numbers: list[int]


def reader(*classes: Any) -> Reader:
    registry = EventTypes()
    for cls in classes:
        registry.of(cls)
    return Reader(LOADERS.__getitem__, registry.named)


def read(cls: Any, body: Any, headers: Mapping[str, str] | None = None, *others: Any) -> Any:
    spec = cls if isinstance(cls, EventSpec) else known(cls)
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return reader(*others).read(spec, Envelope("p", "k", raw, {"content-type": JSON, **(headers or {})}))


def refused(cls: Any, body: Any, headers: Mapping[str, str] | None = None, *others: Any) -> str:
    with pytest.raises(InvalidPayload) as caught:
        read(cls, body, headers, *others)
    return str(caught.value)


@pytest.mark.parametrize(
    "sent",
    [
        OrderPlaced("B", 1.5),
        VALUED,
        TREE,
        Book(title="t", at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        Measured(2.5),
        Named("n", [1]),
        Colored(Book(title="t"), Color.BLUE),
    ],
    ids=lambda sent: type(sent).__name__,
)
@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_what_was_sent_is_read(sent: Any, content_type: str) -> None:
    write = json.apply if content_type == JSON else msgpack.apply
    envelope = Envelope("p", "k", write(sent), {"content-type": content_type})
    found = reader().read(known(type(sent)), envelope)
    assert type(found) is type(sent)
    assert found == sent


@pytest.mark.parametrize(
    ("body", "event"),
    [
        ({"leaf": {"size": 1, "colour": "red"}, "numbers": [], "new": 1}, Holder(Leaf(1), [])),
        ({}, OrderPlaced("A-1", 9.5)),
        ({"title": "t", "isbn": 1}, Book(title="t")),
        ({"value": 1, "new": []}, Measured(1.0, "m")),
        ({"name": "n"}, Named("n", [])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fields_that_are_unknown_are_ignored_and_those_with_defaults_filled(body: Any, event: Any) -> None:
    assert read(type(event), body) == event


@pytest.mark.parametrize(
    ("cls", "body", "said"),
    [
        (OrderPlaced, {"total": "x"}, "this is no OrderPlaced: Expected `float`, got `str` - at `$.total`"),
        (Holder, {"leaf": {}, "numbers": []}, "missing required field `size` - at `$.leaf`"),
        (Holder, {"leaf": {"size": 1}, "numbers": [1, "2"]}, "Expected `int`, got `str` - at `$.numbers[1]`"),
        (OrderPlaced, [1], "this is no OrderPlaced: Expected `object`, got `array`"),
        (Valued, {"color": "green"}, "Invalid enum value 'green' - at `$.color`"),
        (Tree, {"leaf": {"size": 1}, "either": []}, "at `$.either`"),
        (Book, {"title": 5}, "this is no Book: Input should be a valid string - at `$.title`"),
        (Book, {}, "this is no Book: Field required - at `$.title`"),
        (Colored, {"book": {"title": []}}, "at `$.book`"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_does_not_fit_is_told_with_its_path_and_the_reason(cls: Any, body: Any, said: str) -> None:
    assert said in refused(cls, body)


class Lax(pydantic.BaseModel):
    id: str = pydantic.Field("", validation_alias=pydantic.AliasChoices("number", pydantic.AliasPath("a", 0)))


class LaxStruct(msgspec.Struct, rename="camel"):
    order_id: str = ""


@dataclasses.dataclass
class Empty: ...


class Before(pydantic.BaseModel):
    id: str = ""

    @pydantic.model_validator(mode="before")
    @classmethod
    def unpack(cls, values: Any) -> Any:
        return values.get("order", values)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_document_of_others_is_no_event_whose_fields_all_have_their_defaults(content_type: str) -> None:
    document = {"specversion": "1.0", "type": "order", "data": {"id": "B", "order_id": "B"}}
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    kind = {"content-type": content_type}
    for cls in (OrderPlaced, event()(Lax), event()(LaxStruct)):
        assert refused(cls, encode(document), kind).startswith(
            f"this is no {cls.__name__}: it has none of its fields, and others (specversion, type, data); a "
        )
    # What says that it is the event may be of a newer version, with other fields.
    sent = {**kind, "evbus-message": "OrderPlaced"}
    assert read(OrderPlaced, encode(document), sent, OrderPlaced) == OrderPlaced()
    assert read(OrderPlaced, encode({}), kind) == OrderPlaced()
    for known_one in ({"id": "B"}, {"number": "B"}, {"a": ["B"]}):
        assert read(Lax, encode(known_one), kind) == Lax(number="B")
    assert read(LaxStruct, encode({"orderId": "B", "x": 1}), kind) == LaxStruct("B")
    assert read(event()(Empty), encode(document), kind) == Empty()
    assert read(event()(Before), encode({"order": {"id": "B"}}), kind) == Before(id="B")


@pytest.mark.parametrize("digits", ["12345678901234567.89", "0.1000", "1e400", "5"])
def test_a_json_number_for_a_decimal_is_exact_in_every_class(digits: str) -> None:
    total, wanted = f'"total":{digits}', repr(decimal.Decimal(digits))
    for cls in (Paid, PaidNoted, Charged):
        for beside in ("", ',"note":"n"', ',"rate":NaN', ',"new":[0.5]'):
            assert repr(read(cls, f"{{{total}{beside}}}".encode()).total) == wanted
    strict = read(Strict, f'{{{total},"at":"2026-01-02","rate":0.10,"other":[0.10]}}'.encode())
    assert (repr(strict.total), repr(strict.rate), repr(strict.other)) == (wanted, "0.1", "[0.1]")
    both = read(Both, f'{{"charged":{{{total},"paid":{{{total}}}}},{total}}}'.encode())
    assert [repr(each) for each in (both.total, both.charged.total, both.charged.paid.total)] == [wanted] * 3


def test_an_upcast_rounds_no_number() -> None:
    raised = read(Raised, b'{"sum":12345678901234567.890}', {"evbus-version": "1"})
    assert repr(raised.total) == "Decimal('12345678901234567.890')"
    assert repr(raised.rate) == "1.2345678901234568e+16"


def test_numbers_are_plain_floats_where_a_model_wants_no_decimal() -> None:
    found = read(Charged, b'{"total":1,"rate":0.50,"other":{"a":[0.50]},"listed":[0.50],"new":{"b":0.50}}')
    assert repr(found.rate) == "0.5"
    numbers = [*found.other["a"], *found.listed, found.new["b"]]
    assert [(type(each), each) for each in numbers] == [(float, 0.5)] * 3


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_dataclass_of_pydantic_s_is_validated(content_type: str) -> None:
    write = json.apply if content_type == JSON else msgpack.apply
    headers = {"content-type": content_type}
    assert read(Ordered, write({"count": 5, "remark": "urgent"}), headers) == Ordered(5, "urgent")
    assert refused(Ordered, write({"count": -5}), headers) == (
        "this is no Ordered: Input should be greater than 0 - at `$.count`"
    )


def test_a_strict_model_is_read_with_infinities_in_it() -> None:
    sent = Strict(total=decimal.Decimal("1.50"), at=dt.date(2026, 1, 2), rate=float("inf"))
    assert read(Strict, json.apply(sent)) == sent


def test_a_body_that_cannot_be_read_at_all_is_refused() -> None:
    assert "JSON" in refused(OrderPlaced, b"{")
    assert "twice" in refused(OrderPlaced, b'{"id":"a","id":"b"}')


def test_a_model_with_aliases_is_read_by_its_names_and_by_its_aliases() -> None:
    @event()
    class Aliased(pydantic.BaseModel):
        number: int = pydantic.Field(alias="No")

    sent = Aliased(No=1)
    assert read(Aliased, json.apply(sent)) == sent
    assert read(Aliased, {"No": 1}) == read(Aliased, {"number": 1}) == sent


@pytest.mark.parametrize(
    ("cls", "body"), [(OrderPlaced, {"total": "s3cret"}), (Book, {"title": "t", "pages": "s3cret"})]
)
def test_values_of_the_event_are_not_repeated_where_they_do_not_fit(cls: Any, body: Any) -> None:
    assert "s3cret" not in refused(cls, body)


# Versions


@pytest.mark.parametrize(
    "headers", [{}, {"evbus-version": "3"}, {"evbus-message": "Third", "evbus-version": "3"}]
)
def test_the_present_version_is_read_as_it_is(headers: Any) -> None:
    assert read(Third, {"name": "n", "more": 1}, headers) == Third("n", 1)


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"evbus-version": "1"}, 1),
        ({"evbus-version": "2"}, 2),
        ({"evbus-message": "Third", "evbus-version": "2"}, 2),
        ({"evbus-message": "Third"}, 1),  # which is what a sender of the first version writes
    ],
)
def test_an_older_version_is_made_the_present_one(headers: dict[str, str], version: int) -> None:
    assert read(Third, {"title": "t"}, headers) == Third(f"t of {version}", 0)


def test_of_a_newer_version_the_known_fields_do() -> None:
    headers = {"evbus-version": "4"}
    assert read(Third, {"name": "n", "new": []}, headers) == Third("n", 0)
    assert refused(Third, {"title": "t"}, headers) == (
        "this is no Third: Object missing required field `name`"
    )
    assert read(OrderPlaced, {"id": "n"}, {"evbus-version": "4"}) == OrderPlaced("n")


def test_a_version_that_is_written_in_another_way_is_the_same() -> None:
    assert read(Third, {"name": "n"}, {"evbus-version": "03"}) == Third("n")


@pytest.mark.parametrize("said", ["x", "-1", "1.5", " 1", "9" * 5000])
def test_a_version_that_is_no_number_is_refused(said: str) -> None:
    found = refused(Third, {"name": "n"}, {"evbus-version": said})
    assert found.startswith("the header evbus-version is no number: ")
    assert len(found) < 1000


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "Third of version 1 cannot be made one of version 3: KeyError: 'title'"),
        ([1], "Third of version 1 is no object"),
    ],
)
def test_an_older_version_that_cannot_be_made_the_present_one_is_refused(body: Any, said: str) -> None:
    assert refused(Third, body, {"evbus-version": "1"}) == said


def test_an_upcast_that_returns_no_mapping_is_told() -> None:
    odd = event("odd", version=2, upcast=lambda version, values: 5)(  # type: ignore[arg-type, return-value]
        dataclasses.make_dataclass("Odd", [("id", int)])
    )
    assert "Odd" in repr(odd)
    assert refused(odd, {}, {"evbus-version": "1"}).startswith(
        "odd of version 1 cannot be made one of version 2: TypeError: "
    )


def test_what_an_upcast_returns_is_checked() -> None:
    odd = event("odd", version=2, upcast=lambda version, values: {"id": "x"})(
        dataclasses.make_dataclass("Odd", [("id", int)])
    )
    assert refused(odd, {}, {"evbus-version": "1"}) == "this is no Odd: Expected `int`, got `str` - at `$.id`"


# Names


@event()
@dataclasses.dataclass
class Base:
    id: int


@event()
@dataclasses.dataclass
class Sub(Base):
    more: str = ""


def test_a_message_without_a_name_is_what_was_subscribed_to() -> None:
    assert read(Base, {"id": 1}) == Base(1)


def test_a_message_says_that_it_is_of_a_class_that_derives_from_the_wanted_one() -> None:
    assert read(Base, {"id": 1, "more": "m"}, {"evbus-message": "Sub"}, Sub) == Sub(1, "m")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Su\nb", "it is a Su\\nb, and there is no event of that name here"),
        ("OrderPlaced", "it is a OrderPlaced, and the listener wants a Base"),
    ],
    ids=["unknown", "another event"],
)
def test_a_message_of_another_name_is_refused(name: str, said: str) -> None:
    assert refused(Base, {"id": 1}, {"evbus-message": name}, OrderPlaced) == said


def test_what_was_subscribed_to_by_a_name_without_a_class_is_plain_values() -> None:
    (spec,) = EventTypes().wanted(listener_spec("anything"))
    for headers in ({}, {"evbus-message": "anything"}, {"evbus-message": "anything", "evbus-version": "7"}):
        assert read(spec, {"id": 1}, headers) == {"id": 1}
    with pytest.raises(InvalidPayload, match="^it is a other, and the listener wants a anything$"):
        read(spec, {"id": 1}, {"evbus-message": "other"})


# What is remembered


def test_how_a_class_is_read_is_found_out_once() -> None:
    asked = []

    def loader_of(content_type: str) -> Loader:
        asked.append(content_type)
        return LOADERS[JSON]

    made = Reader(loader_of, EventTypes().named)
    for content_type in (JSON, JSON, "", JSON):
        assert made.read(
            known(Base), Envelope("p", "k", b'{"id":1}', {"content-type": content_type})
        ) == Base(1)
    assert made.read(known(Base), Envelope("p", "k", b'{"id":1}', {})) == Base(1)
    assert asked == [JSON, ""]


def test_made_up_content_types_fill_no_memory_and_are_read() -> None:
    made = Reader(lambda content_type: LOADERS[JSON], EventTypes().named)
    for number in range(events_reader.REMEMBERED + 50):
        envelope = Envelope("p", "k", b'{"id":1}', {"content-type": f"application/json; n={number}"})
        assert made.read(known(Base), envelope) == Base(1)
    assert len(made._decoders) <= events_reader.REMEMBERED


def test_a_thousand_types_cost_as_much_for_each_event_as_ten() -> None:
    def cost(types: int) -> float:
        asked: list[type] = []
        loader = LOADERS[JSON]._replace(typed=lambda kind: asked.append(kind) or json.typed(kind))
        registry = EventTypes()
        specs = [
            registry.of(event(f"e{number}")(dataclasses.make_dataclass(f"E{number}", [("id", int)])))
            for number in range(types)
        ]
        made = Reader(lambda content_type: loader, registry.named)
        arrived = [
            (
                spec,
                Envelope("p", spec.name, b'{"id":1}', SharedHeaders({"content-type": JSON, NAME: spec.name})),
            )
            for spec in specs
        ]

        def read_all() -> None:
            for spec, envelope in arrived:
                assert made.read(spec, envelope).id == 1

        read_all()
        found = steps(read_all)
        assert len(asked) == types
        return found / types

    assert cost(1000) <= 1.5 * cost(10)


def test_what_was_encoded_here_is_not_looked_through_for_what_that_never_writes() -> None:
    loader = LOADERS[JSON]._replace(own=json.own)
    spec = known(Base)
    made, twice = Reader(lambda content_type: loader, {spec.name: spec}.get), b'{"id":1,"id":2}'
    for headers in (SharedHeaders, OwnHeaders):
        shared = headers({"content-type": JSON, NAME: spec.name})
        assert made.read(spec, Envelope("p", spec.name, b'{"id":1}', shared)) == Base(1)
        with contextlib.nullcontext() if headers is OwnHeaders else pytest.raises(InvalidPayload):
            assert made.read(spec, Envelope("p", spec.name, twice, shared)) == Base(2)
        with pytest.raises(InvalidPayload):
            made.read(spec, Envelope("p", spec.name, b'{"id":"x"}', shared))


def test_listeners_to_names_that_come_and_go_leave_nothing_behind() -> None:
    made = Reader(lambda content_type: LOADERS[JSON], EventTypes().named)
    for number in range(50):
        envelope = Envelope("p", "k", b'{"id":1}', {"content-type": JSON})
        assert made.read(named_only(f"name {number}"), envelope) == {"id": 1}
    assert {kind: len(decoders) for kind, decoders in made._decoders.items()} == {JSON: 1}


def test_a_class_whose_annotations_mean_nothing_is_told() -> None:
    odd: Any = event("odd")(dataclasses.make_dataclass("Odd", [("id", "Nowhere")]))
    assert refused(odd, {"id": 1}) == "Odd cannot be read: name 'Nowhere' is not defined"
