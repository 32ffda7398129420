"""pydantic's models and dataclasses: each kind of field comes back, as JSON and as MessagePack."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import ipaddress
import json
import pathlib
import re
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from evbus.engine.codec import json as codec_json
from evbus.engine.codec import models as codec_models
from evbus.engine.codec import msgpack
from evbus.engine.codec.typed import reader, wants_digits
from evbus.errors import InvalidPayload, SerializeError


class Color(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    first: int
    second: bytes


class Record(TypedDict):
    raw: bytes


@dataclasses.dataclass
class Plain:
    raw: bytes
    total: decimal.Decimal


class Inner(pydantic.BaseModel):
    raw: bytes = b"\xff"
    total: decimal.Decimal = decimal.Decimal("1.10")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> decimal.Decimal:
        return self.total * 2


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    raw: bytes = b"\xfe"


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


@pydantic.dataclasses.dataclass
class Order:
    count: int = pydantic.Field(gt=0)
    note: str = pydantic.Field(default="none", alias="remark")
    raw: bytes = b""
    total: decimal.Decimal = decimal.Decimal("0.10")


UTC = dt.UTC
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
ANY = object()
#: A type, a value of it, and what stands in JSON (ANY: that is the type's own affair).
KINDS: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (float, 1.5, 1.5),
    (float, float("inf"), float("inf")),
    (bool, True, True),
    (str, "é", "é"),
    (bytes, b"\x00\xff", "AP8="),
    (bytes, b"abc", "YWJj"),
    (Annotated[bytes, pydantic.Field(min_length=2, max_length=2)], b"\xfb\xff", "+/8="),
    (decimal.Decimal, decimal.Decimal("12345678901234567.890"), "12345678901234567.890"),
    (uuid.UUID, uuid.UUID(int=7), str(uuid.UUID(int=7))),
    (dt.datetime, NOW, "2026-01-02T03:04:05.000678Z"),
    (dt.datetime, NOW.replace(tzinfo=None), "2026-01-02T03:04:05.000678"),
    (dt.date, NOW.date(), "2026-01-02"),
    (dt.time, dt.time(1, 2), "01:02:00"),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=5), ANY),
    (Color, Color.RED, "red"),
    (Literal["a", 1], 1, 1),
    (bytes | None, None, None),
    (list[bytes], [b"\xff"], ["/w=="]),
    (tuple[int, bytes], (1, b"\xff"), [1, "/w=="]),
    (set[int], {1}, [1]),
    (frozenset[bytes], frozenset({b"\xff"}), ["/w=="]),
    (dict[str, bytes], {"a": b"\xff"}, {"a": "/w=="}),
    (dict[bytes, int], {b"\xff": 1}, {"/w==": 1}),
    (dict[int, decimal.Decimal], {1: decimal.Decimal("1.50")}, {"1": "1.50"}),
    (collections.deque[int], collections.deque([1]), [1]),
    (Sequence[bytes], [b"\xff"], ["/w=="]),
    (Mapping[str, int], {"a": 1}, {"a": 1}),
    (int | bytes, b"\xff", "/w=="),
    (Pair, Pair(1, b"\xff"), [1, "/w=="]),
    (Record, {"raw": b"\xff"}, {"raw": "/w=="}),
    (Plain, Plain(b"\xff", decimal.Decimal("1.0")), {"raw": "/w==", "total": "1.0"}),
    (Inner, Inner(), {"raw": "/w==", "total": "1.10"}),
    (
        Order,
        Order(count=1, remark="x", raw=b"\xff"),
        {"count": 1, "note": "x", "raw": "/w==", "total": "0.10"},
    ),  # type: ignore[call-arg]
    (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], Cat(), {"kind": "cat", "raw": "/g=="}),
    (pathlib.Path, pathlib.Path("/a"), "/a"),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1"), "10.0.0.1"),
    (ipaddress.IPv6Network, ipaddress.IPv6Network("fe80::/64"), "fe80::/64"),
    (pydantic.AnyUrl, pydantic.AnyUrl("https://example.org/"), "https://example.org/"),
    (pydantic.ByteSize, pydantic.ByteSize(5), 5),
    (pydantic.Base64Bytes, b"YWJj", ANY),
    (pydantic.Json[list[int]], "[1]", "[1]"),
    (re.Pattern[str], re.compile("a+"), "a+"),
    (complex, 1j, "1j"),
    (Any, {"a": [1.5, "x"]}, {"a": [1.5, "x"]}),
]


def through(kind: Any, value: Any, coding: Any) -> Any:
    """Return what a reader makes of what is written."""
    digits = coding is codec_json and wants_digits(kind)
    return reader(kind, digits=digits)((coding.exact_load if digits else coding.load)(coding.apply(value)))


def short(value: Any) -> str:
    """Return an id that is the same in each process: without an address."""
    return str(value)[:40].partition(" at 0x")[0]


def model_of(kind: Any, **config: Any) -> Any:
    return pydantic.create_model("Model", __config__=pydantic.ConfigDict(**config), value=(kind, ...))


@pytest.mark.parametrize("strict", [False, True], ids=["lax", "strict"])
@pytest.mark.parametrize(("kind", "value", "written"), KINDS, ids=short)
def test_each_kind_of_field_comes_back(kind: Any, value: Any, written: Any, strict: bool) -> None:
    model = model_of(kind, extra="forbid")
    sent = model(value=value)
    read_by = model_of(kind, extra="forbid", strict=strict)
    assert codec_models.unfit(model) is None
    if written is not ANY:
        assert codec_json.load(codec_json.apply(sent)) == {"value": written}
    for coding in (codec_json, msgpack):
        digits = coding is codec_json and wants_digits(read_by)
        values = (coding.exact_load if digits else coding.load)(coding.apply(sent))  # type: ignore[attr-defined]
        assert reader(read_by, digits=digits)(values).value == sent.value


@pytest.mark.parametrize(("kind", "value", "written"), KINDS, ids=short)
def test_the_json_of_pydantic_is_that_of_the_plain_way(kind: Any, value: Any, written: Any) -> None:
    sent = model_of(kind)(value=value)
    own = codec_models.own_json(type(sent))
    found = own(sent) if own is not None else None
    assert found in (None, codec_json._slow(sent, codec_json._JsonNormaliser))
    assert own is not None or kind not in (int, str, float, decimal.Decimal, dt.datetime, uuid.UUID)


def test_bytes_stay_bytes_in_messagepack() -> None:
    sent = model_of(dict[str, list[bytes]])(value={"a": [b"\xff", b"abc"]})
    assert msgpack.load(msgpack.apply(sent)) == {"value": {"a": [b"\xff", b"abc"]}}


@pytest.mark.parametrize("coding", [codec_json, msgpack], ids=["json", "msgpack"])
def test_what_is_computed_is_not_written(coding: Any) -> None:
    class Box(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        w: int

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.w

    assert coding.load(coding.apply(Box(w=1))) == {"w": 1}
    assert through(Box, Box(w=1), coding) == Box(w=1)


class Camel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=True, alias_generator=to_camel)
    order_id: str
    inner_one: Inner | None = None


class Named(pydantic.BaseModel):
    order_id: str = pydantic.Field(alias="orderId")


class Twofold(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)
    a: int = pydantic.Field(0, serialization_alias="SA", validation_alias=pydantic.AliasChoices("VA", "VB"))
    b: int = pydantic.Field(0, serialization_alias="SB", validation_alias=pydantic.AliasPath("x", 0))
    c: int = pydantic.Field(0, serialization_alias="SC")
    d: int = pydantic.Field(0, serialization_alias="SD", validation_alias="VD")


@pydantic.dataclasses.dataclass(config=pydantic.ConfigDict(serialize_by_alias=True, alias_generator=to_camel))
class CamelData:
    order_id: str

    @pydantic.field_serializer("order_id")
    def written(self, order_id: str) -> str:
        return order_id.lower()


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        (CamelData(orderId="x"), ["orderId"]),  # type: ignore[call-arg]
        (Camel(orderId="x"), ["orderId", "innerOne"]),  # type: ignore[call-arg]
        (Named(orderId="x"), ["order_id"]),
        (Twofold(VA=1, x=[2], c=3, VD=4), ["SA", "SB", "SC", "SD"]),  # type: ignore[call-arg]
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("coding", [codec_json, msgpack], ids=["json", "msgpack"])
def test_fields_are_written_by_the_names_that_the_class_says_and_read_by_all(
    sent: Any, names: list[str], coding: Any
) -> None:
    assert list(coding.load(coding.apply(sent))) == names
    assert through(type(sent), sent, coding) == sent
    by_name = pydantic.TypeAdapter(type(sent)).dump_python(sent, by_alias=False, round_trip=True)
    assert reader(type(sent))(by_name) == sent


@pytest.mark.parametrize("coding", [codec_json, msgpack], ids=["json", "msgpack"])
def test_a_dataclass_of_pydantic_s_writes_itself_wherever_it_stands(coding: Any) -> None:
    sent: Any = CamelData(orderId="X")  # type: ignore[call-arg]
    for body, written in (
        (sent, {"orderId": "x"}),
        ([sent], [{"orderId": "x"}]),
        ({"a": sent}, {"a": {"orderId": "x"}}),
    ):
        assert coding.load(coding.apply(body)) == written


def test_other_aliases_stay_those_of_the_class() -> None:
    read = reader(Twofold)
    assert read({"VB": 1, "x": [2], "c": 3, "VD": 4}) == read({"SA": 1, "SB": 2, "SC": 3, "SD": 4})


@pytest.mark.parametrize("key", ["remark", "note"])
def test_a_dataclass_of_pydantic_s_validates_what_comes_in(key: str) -> None:
    assert reader(Order)({"count": 5, key: "urgent"}) == Order(count=5, remark="urgent")  # type: ignore[call-arg]
    with pytest.raises(
        InvalidPayload, match=r"this is no Order: Input should be greater than 0 - at `\$\.count`"
    ):
        reader(Order)({"count": -5, key: "urgent"})


def test_bytes_that_are_no_base64_are_refused_without_their_value() -> None:
    with pytest.raises(InvalidPayload, match=r"Invalid base64 encoded string - at `\$\.raw`") as caught:
        reader(Inner)({"raw": "s3cret!"})
    assert "s3cret" not in str(caught.value)
    assert reader(Inner)({"raw": "-_8="}).raw == b"\xfb\xff"  # the other alphabet of RFC 4648


def test_what_a_field_has_of_its_own_is_left_alone() -> None:
    class Own(pydantic.BaseModel):
        raw: bytes
        other: bytes = b"\xff"

        @pydantic.field_serializer("raw")
        def written(self, raw: bytes) -> str:
            return raw.hex()

        @pydantic.field_validator("raw", mode="before")
        @classmethod
        def read(cls, raw: Any) -> Any:
            return bytes.fromhex(raw) if isinstance(raw, str) else raw

    sent = Own(raw=b"\xff")
    assert codec_json.load(codec_json.apply(sent)) == {"raw": "ff", "other": "/w=="}
    assert through(Own, sent, codec_json) == through(Own, sent, msgpack) == sent


def test_a_model_may_refer_to_itself_and_have_fields_called_as_words_of_schemas() -> None:
    class Node(pydantic.BaseModel):
        type: bytes = b"\xff"
        schema_: decimal.Decimal = pydantic.Field(decimal.Decimal("1.0"), alias="schema")
        fields: list[Node] = []
        choices: dict[str, Node] = {}

    Node.model_rebuild()
    sent = Node(fields=[Node(type=b"\xfe", choices={"type": Node()})])
    for coding in (codec_json, msgpack):
        assert through(Node, sent, coding) == sent


def test_a_class_that_is_completed_later_is_read_and_written() -> None:
    class Later(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(defer_build=True)
        raw: bytes

    assert reader(Later)({"raw": "/w=="}) == Later(raw=b"\xff")
    assert codec_json.apply(Later(raw=b"\xff")) == b'{"raw":"/w=="}'


def test_what_a_model_holds_and_cannot_be_written_is_told_with_its_place() -> None:
    with pytest.raises(SerializeError, match=r"reading the fields of Model raised .* - at \$\.a$"):
        codec_json.apply({"a": model_of(Any)(value=print)})


# What is refused when an event is declared


class Socket:
    pass


class Secretive(pydantic.BaseModel):
    token: pydantic.SecretStr


class Excluding(pydantic.BaseModel):
    id: int = pydantic.Field(default=1, exclude=True)


class Initialised(pydantic.BaseModel):
    raw: bytes

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


@pydantic.dataclasses.dataclass
class Deep:
    parts: list[Secretive]


@pytest.mark.parametrize(
    ("kind", "path", "reason"),
    [
        (pydantic.SecretStr, "value", "is a SecretStr, which is written as asterisks"),
        (pydantic.SecretBytes | None, "value", "is a SecretBytes, which is written as asterisks"),
        (pydantic.Secret[dt.date], "value", "is a Secret"),
        (list[Secretive], "value.token", "is a SecretStr, which is written as asterisks"),
        (Sequence[Secretive], "token", "is a SecretStr, which is written as asterisks"),
        (Deep, "value.parts.token", "is a SecretStr, which is written as asterisks"),
        (
            Excluding,
            "value.id",
            "is left out when the event is written (exclude=True), so that no listener gets it",
        ),
        (Initialised, "value", "has bytes, which its own __init__ would get as base64"),
        (Socket, "value", "is a Socket, which cannot be written down"),
        (dict[str, Socket], "value", "is a Socket, which cannot be written down"),
        (Callable[[], int], "value", "cannot be written down"),
    ],
    ids=str,
)
def test_a_field_that_cannot_come_back_is_found(kind: Any, path: str, reason: str) -> None:
    found = codec_models.unfit(model_of(kind, arbitrary_types_allowed=True))
    assert found is not None
    assert found[0] == path
    assert found[1].startswith(reason)


def test_a_secret_whose_class_says_how_it_is_written_is_taken() -> None:
    class Open(pydantic.BaseModel):
        token: pydantic.SecretStr

        @pydantic.field_serializer("token")
        def shown(self, token: pydantic.SecretStr) -> str:
            return token.get_secret_value()

    assert codec_models.unfit(Open) is None
    assert through(Open, Open(token=pydantic.SecretStr("t0k")), codec_json).token.get_secret_value() == "t0k"


# Whatever they consist of

SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**63), 2**63 - 1)),
    (float, st.floats(allow_nan=False)),
    (str, st.text(max_size=3)),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=4)),
    (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (uuid.UUID, st.uuids()),
    (dt.datetime, st.datetimes(timezones=st.just(UTC))),
    (dt.date, st.dates()),
    (dt.timedelta, st.timedeltas(dt.timedelta(-1000), dt.timedelta(1000))),
    (Color, st.just(Color.RED)),
    (Inner, st.builds(Inner, raw=st.binary(max_size=2))),
    (Plain, st.builds(Plain, st.binary(max_size=2), st.just(decimal.Decimal("0.10")))),
]
NAMES = st.text(max_size=2)
FIELDS = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        inner.map(lambda each: (list[each[0]], st.lists(each[1], max_size=2))),  # type: ignore[name-defined]
        inner.map(lambda each: (each[0] | None, each[1] | st.none())),
        inner.map(
            lambda each: (dict[str, each[0]], st.dictionaries(st.text(max_size=2), each[1], max_size=2))
        ),  # type: ignore[name-defined]
    ),
    max_leaves=3,
)


@st.composite
def models(draw: st.DrawFn) -> Any:
    """Draw an instance of a model, or of a dataclass of pydantic's, with fields of any kind."""
    fields = {f"field_{number}": draw(FIELDS) for number in range(draw(st.integers(1, 3)))}
    values = {name: draw(strategy) for name, (_, strategy) in fields.items()}
    config = pydantic.ConfigDict(
        extra="forbid",
        serialize_by_alias=draw(st.booleans()),
        alias_generator=draw(st.sampled_from([None, to_camel])),
        validate_by_name=True,
        validate_by_alias=True,
    )
    if draw(st.booleans()):
        wanted: Any = {name: (kind, ...) for name, (kind, _) in fields.items()}
        made: Any = pydantic.create_model("Made", __config__=config, **wanted)
    else:
        plain = dataclasses.make_dataclass("Made", [(name, kind) for name, (kind, _) in fields.items()])
        made = pydantic.dataclasses.dataclass(config=config)(plain)
    return made(**values)


@settings(deadline=None)
@given(models())
def test_a_model_of_any_shape_comes_back(sent: Any) -> None:
    kind = type(sent)
    assert codec_models.unfit(kind) is None
    for coding in (codec_json, msgpack):
        assert through(kind, sent, coding) == sent
    own = codec_models.own_json(kind)
    if own is not None:
        assert own(sent) in (None, codec_json._slow(sent, codec_json._JsonNormaliser))


@settings(deadline=None)
@given(st.sampled_from(["12345678901234567.89", "0.1000", "1e400", "-7"]), st.booleans())
def test_a_json_number_is_exact_in_models_of_any_shape(digits: str, strict: bool) -> None:
    made = model_of(list[decimal.Decimal | None] | dict[str, decimal.Decimal], strict=strict)
    for text in (f'{{"value":[{digits},null]}}', f'{{"value":{{"a":{digits}}}}}'):
        value = reader(made, digits=True)(codec_json.exact_load(text.encode())).value
        found = value[0] if isinstance(value, list) else value["a"]
        assert str(found) == str(decimal.Decimal(digits))
    assert json.loads(codec_json.apply(made(value=[decimal.Decimal(digits)]))) == {
        "value": [str(decimal.Decimal(digits))]
    }


# What is remembered of classes


def test_more_than_a_thousand_models_are_made_ready_once(monkeypatch: Any) -> None:
    made = codec_models._made
    ready: list[Any] = []
    monkeypatch.setattr(codec_models, "_made", lambda kind: ready.append(kind) or made(kind))
    kinds = [pydantic.create_model(f"M{number}", at=(int, 1)) for number in range(1_100)]
    for _ in range(2):
        for kind in kinds:
            assert codec_json.apply(kind()) == b'{"at":1}'
            assert codec_models.validated(kind, {"at": 2}) == kind(at=2)
    assert len(ready) == len(kinds)


def test_what_is_known_of_a_class_is_neither_that_of_its_base_nor_outlives_it() -> None:
    def died() -> list[weakref.ref[type]]:
        class Base(pydantic.BaseModel):
            total: decimal.Decimal = decimal.Decimal(1)

        class Below(Base):
            name: str = "x"

        @pydantic.dataclasses.dataclass
        class Data:
            raw: bytes = b"x"

        for value, written in (
            (Base(), b'{"total":"1"}'),
            (Below(), b'{"total":"1","name":"x"}'),
            (Data(), b'{"raw":"eA=="}'),
        ):
            assert codec_json.apply(value) == written
            assert reader(type(value))(json.loads(written)) == value
        return [weakref.ref(each) for each in (Base, Below, Data)]

    refs = died()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
