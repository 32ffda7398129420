"""JSON made into instances of a class in one go: what it returns is what load and convert return."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.codec import json as codec_json
from evbus.engine.codec.typed import reader, wants_digits
from evbus.errors import EvbusError, InvalidPayload


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Inner:
    text: str
    number: int


@dataclasses.dataclass
class Outer:
    text: str
    inner: Inner
    real: float
    truth: bool


@dataclasses.dataclass
class Scalars:
    color: Color
    at: dt.datetime
    id: uuid.UUID
    price: decimal.Decimal
    raw: bytes


class Struct(msgspec.Struct, rename="camel"):
    first_name: str
    inner: Inner


@dataclasses.dataclass
class Defaulted:
    text: str
    more: int = 0


@dataclasses.dataclass
class Checked:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("below zero")


@dataclasses.dataclass
class Node:
    next: Node | None


@dataclasses.dataclass
class Endless:
    next: Endless


class Tagged(msgspec.Struct, tag=True):
    text: str


class Listed(msgspec.Struct, array_like=True):
    text: str


@pydantic.dataclasses.dataclass
class Validated:
    number: int


class Ruled(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def known(cls, number: int) -> int:
        return number


@dataclasses.dataclass
class Nested:
    """Whose objects have no number of keys."""

    text: str
    number: int | None = None
    inner: list[Inner] = dataclasses.field(default_factory=list)
    real: dict[str, float] = dataclasses.field(default_factory=dict)
    truth: Any = None


class Validation(pydantic.BaseModel):
    """Of required single values."""

    text: str
    number: decimal.Decimal
    real: float
    at: dt.datetime
    state: Color
    count: int = pydantic.Field(gt=0)
    truth: bool | None


class Strict(Validation, strict=True):
    pass


class Sparse(pydantic.BaseModel):
    """With defaults, aliases, and others within."""

    text: str = "t"
    number: decimal.Decimal | None = None
    real: list[float] = []
    at: dt.date | None = None
    count: int = pydantic.Field(0, validation_alias=pydantic.AliasChoices("n", pydantic.AliasPath("list", 0)))
    inner: Strict | None = None


class Plain(pydantic.BaseModel, extra="forbid", coerce_numbers_to_str=True):
    text: str
    number: decimal.Decimal


@pydantic.dataclasses.dataclass
class Combined:
    text: str
    number: int | None
    inner: Validation


class Held(msgspec.Struct):
    raw: msgspec.Raw


@dataclasses.dataclass
class Paid:
    total: decimal.Decimal


@dataclasses.dataclass
class PaidNoted:
    total: decimal.Decimal
    note: str = ""


class Charged(msgspec.Struct):
    total: decimal.Decimal | None = None
    shares: list[decimal.Decimal] = []
    rate: float = 0.0
    other: Any = None


def reading(kind: type) -> Callable[[bytes], Any]:
    """Return what reads a class in one go."""
    found = codec_json.typed(kind)
    assert found is not None
    return found


def outcome(read: Callable[[], Any]) -> Any:
    """Return what reading returns, None when it refuses."""
    try:
        return read()
    except (ValueError, EvbusError):
        return None


def plainly(kind: Any, text: bytes) -> Any:
    """Return what the long way makes of a text."""
    digits = wants_digits(kind)
    return reader(kind, digits=digits)((codec_json.exact_load if digits else codec_json.load)(text))


def assert_same(kind: type, text: bytes) -> None:
    """Check that it returns what the long way returns, or leaves the text to that."""
    slow = outcome(lambda: plainly(kind, text))
    fast = outcome(lambda: reading(kind)(text))
    assert fast is None or repr(fast) == repr(slow)


@pytest.mark.parametrize(
    "value",
    [
        Inner("x", 1),
        Outer("a: b", Inner("x", 5), 1.5, truth=True),
        Scalars(
            Color.RED,
            dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
            uuid.UUID(int=1),
            decimal.Decimal("1.10"),
            b"\x00",
        ),
        Struct("ann", Inner("x", 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_written_is_read(value: Any) -> None:
    assert reading(type(value))(codec_json.apply(value)) == value


@pytest.mark.parametrize(
    ("kind", "text", "read"),
    [
        (Defaulted, b'{"text":"a"}', Defaulted("a")),
        (Node, b'{"next":{"next":null}}', Node(Node(None))),
        (Tagged, b'{"text":"a","type":"Tagged"}', Tagged("a")),
        (Listed, b'["a"]', Listed("a")),
        (int, b"5", 5),
        (list[Inner], b'[{"text":"a","number":1}]', [Inner("a", 1)]),
        (dict[str, int], b'{"a":1}', {"a": 1}),
    ],
    ids=str,
)
def test_classes_of_any_shape_are_read_from_the_text(kind: Any, text: bytes, read: Any) -> None:
    assert reading(kind)(text) == read
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        reading(Endless)(text)


@pytest.mark.parametrize("kind", [list[pydantic.BaseModel], Held, Ruled, Plain, list[Validated]], ids=str)
def test_there_is_none_where_msgspec_does_not_know_a_part(kind: Any) -> None:
    assert codec_json.typed(kind) is None


@pytest.mark.parametrize("kind", [Paid, PaidNoted, Charged])
@pytest.mark.parametrize("beside", [b"", b',"new":[1.5]', b',"note":"n"', b',"rate":NaN'])
@pytest.mark.parametrize("digits", ["12345678901234567.89", "0.1000", "1e400", "-1E+2", "5", "1e-400"])
def test_a_number_for_a_decimal_is_exact_whatever_stands_beside_it(
    kind: Any, beside: bytes, digits: str
) -> None:
    text = b'{"total":' + digits.encode() + beside + b"}"
    total = plainly(kind, text).total
    assert str(total) == str(decimal.Decimal(digits))
    fast = outcome(lambda: reading(kind)(text))
    assert fast is None or repr(fast.total) == repr(total)


def test_numbers_are_exact_within_and_rounded_where_no_decimal_is_wanted() -> None:
    text = b'{"shares":[0.10,1],"rate":0.10,"other":[0.10,{"a":2.50}]}'
    for charged in (reading(Charged)(text), plainly(Charged, text)):
        assert repr(charged.shares) == "[Decimal('0.10'), Decimal('1')]"
        assert (charged.rate, charged.other) == (0.1, [0.1, {"a": 2.5}])
        assert type(charged.rate) is type(charged.other[0]) is type(charged.other[1]["a"]) is float


@pytest.mark.parametrize("place", ["rate", "other", "new"])
def test_a_number_out_of_range_is_refused_where_no_decimal_is_wanted(place: str) -> None:
    text = f'{{"total":1e400,"{place}":1e400}}'.encode()
    assert outcome(lambda: reading(Charged)(text)) is None
    with pytest.raises(InvalidPayload, match="out of the range of floats"):
        plainly(Charged, text)


@pytest.mark.parametrize("kind", [Paid, PaidNoted, Charged])
@pytest.mark.parametrize("digits", ["1" * 4301, "1e99999999999999999999"])
def test_a_number_that_not_even_a_decimal_can_be_is_refused(kind: Any, digits: str) -> None:
    text = f'{{"total":{digits}}}'.encode()
    assert outcome(lambda: reading(kind)(text)) is None
    with pytest.raises(InvalidPayload):
        plainly(kind, text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"text":"a","text":"b","number":1}',
        b'{"text":"a","number":1,"number":1}',
        b'{"text":"a","number":1,"text" :"b"}',
        b'{"text":"a:","number":1,"text"\t:"b"}',
        b'{"text":"a:::","number":1,"text"\n:"b"}',
        b'{"text":"a","number":1,"text"\r:"b"}',
        b'{"text":"a"}',
        b'{"text":1,"number":1}',
        b'{"text":"a","number":NaN}',
        b'{"text":"\\ud800","number":1}',
        b'{"text":"a","number":1}}',
        b"[]",
        b"",
        b"null",
        b"\x80\x04]\x94.",
    ],
)
def test_what_it_is_not_sure_of_is_left_to_a_closer_look(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        reading(Inner)(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"text":"a:b:c","number":1}',
        b' { "text" : "a" , "number" : 1 } ',
        b'{"number":1,"text":"\\":\\":"}',
        b'{"text":"\\\\","number":1}',
    ],
)
def test_colons_and_spaces_elsewhere_change_nothing(text: bytes) -> None:
    assert_same(Inner, text)
    assert outcome(lambda: plainly(Inner, text)) == outcome(lambda: reading(Inner)(text)) is not None


def test_what_a_class_checks_itself_is_checked() -> None:
    assert reading(Checked)(b'{"number":1}') == Checked(1)
    with pytest.raises(ValueError, match="below zero"):
        reading(Checked)(b'{"number":-1}')


KEYS = st.sampled_from(["text", "number", "inner", "real", "truth", "new"])
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(['":', ":", '\\":']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)
INNER = st.lists(
    st.tuples(KEYS, st.text(max_size=4) | st.integers() | PLAIN)
    | st.just(("number", 1))
    | st.just(("text", ":")),
    max_size=4,
)
COLONS = st.sampled_from([":", " :", ": ", "\t:", "\n:", "\r: "])


@st.composite
def objects(draw: st.DrawFn, depth: int = 1) -> str:
    """Draw an object with keys that may stand twice, and spaces in odd places."""
    parts = []
    for key, value in draw(INNER):
        if key == "inner" and depth:
            written = draw(objects(depth - 1))
        else:
            written = json.dumps(value, ensure_ascii=draw(st.booleans()))
        parts.append(f"{json.dumps(key)}{draw(COLONS)}{written}")
    return "{" + draw(st.sampled_from([",", ", ", ",\n"])).join(parts) + "}"


@given(objects(), st.sampled_from([Inner, Outer, Nested]))
def test_it_never_returns_what_the_long_way_would_not(text: str, kind: type) -> None:
    assert_same(kind, text.encode("utf-8", "surrogatepass"))


#: Values for fields of any type, as they may be written, and some that are none.
WRITTEN = st.sampled_from(
    [
        *('"a"', '"1.50"', '"1e2"', '"a:\\u0020"', '"\\ud800"', '" "', '""', "null", "true", "5", "-0", "1"),
        *("0", "1.10", "1e2", "1E400", "1e-400", "12345678901234567.89", "1e22", "NaN", "-Infinity"),
        *('"red"', '"2026-01-02"', '"2026-01-02T12:00:00Z"', '"2026-01-02T12:00:00.5+02:00"', '"P1DT2S"'),
        *("1767355200", "1767355200.5", "[]", "[1.5]", "[1e400]", '{"a":1}', "9" * 25, "1" * 4301, "[" * 70),
    ]
)
FITTING = {
    "text": '"a: b"',
    "number": '"1.10"',
    "real": "0.5",
    "at": '"2026-01-02T12:00:00Z"',
    "state": '"red"',
    "count": "1",
    "truth": "true",
}
NUMBERED = {**FITTING, "number": "1.10"}


@st.composite
def fields(draw: st.DrawFn, depth: int = 1) -> str:
    """Draw an object that is near one that fits: with values of other types, and keys that stand twice."""
    values = dict(draw(st.sampled_from([FITTING, NUMBERED])))
    for name in draw(st.lists(st.sampled_from([*values, "n", "list", "new"]), max_size=2)):
        values[name] = draw(WRITTEN)
    pairs = list(values.items())
    if depth and draw(st.booleans()):
        pairs.append(("inner", draw(fields(depth - 1))))
    if draw(st.integers(0, 3)) == 0:
        pairs.insert(draw(st.integers(0, len(pairs))), (draw(st.sampled_from(pairs))[0], draw(WRITTEN)))
    for _ in range(draw(st.integers(0, 3))):
        del pairs[draw(st.integers(0, len(pairs) - 1))]
    colon = draw(COLONS)
    return "{" + ",".join(f'"{name}"{colon}{value}' for name, value in pairs) + "}"


MODELS = [Validation, Strict, Sparse, Combined, Nested]


@settings(deadline=None)
@given(fields(), st.sampled_from(MODELS))
def test_models_are_never_read_otherwise_than_the_long_way(text: str, kind: type) -> None:
    assert_same(kind, text.encode())


@pytest.mark.parametrize("kind", MODELS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_what_models_and_nested_classes_write_is_read_the_short_way(kind: Any, data: Any) -> None:
    value = data.draw(NESTED) if kind is Nested else made(data, kind)
    text = codec_json.apply(value)
    assert_same(kind, text)


NESTED = st.builds(
    Nested,
    st.text(),
    st.integers() | st.none(),
    st.lists(st.builds(Inner, st.text(), st.integers()), max_size=3),
    st.dictionaries(st.text(), st.floats(), max_size=3),
    PLAIN,
)


def made(data: Any, kind: Any) -> Any:
    """Draw an instance of a model."""
    real = st.floats(allow_nan=False, allow_infinity=False)
    values: dict[str, Any] = {
        "text": st.text(),
        "number": st.decimals(allow_nan=False, allow_infinity=False)
        if kind is not Combined
        else st.integers() | st.none(),
        "real": st.lists(real) if kind is Sparse else real,
        "at": st.dates() if kind is Sparse else st.datetimes(timezones=st.timezones() | st.none()),
        "state": st.sampled_from(Color),
        "count": st.integers(1),
        "truth": st.booleans() | st.none(),
    }
    held = kind.__pydantic_fields__
    drawn = {name: data.draw(each) for name, each in values.items() if name in held}
    if "inner" in held:
        drawn["inner"] = made(data, Strict if kind is Sparse else Validation)
    return kind(**drawn)


def test_models_of_required_values_and_others_within_are_read_in_one_go() -> None:
    for kind in (Validation, Strict, Combined, Nested):
        assert codec_json.typed(kind) is not None
    value = Validation(
        text="a", number=1, real=0.5, at=dt.datetime.now(dt.UTC), state=Color.RED, count=1, truth=True
    )
    for sent in (value, Combined("a", 1, value), Nested("a", 1, [Inner("b", 2)], {"c": 0.5}, {"d": [None]})):
        assert reading(type(sent))(codec_json.apply(sent)) == sent


@given(
    st.builds(
        Outer,
        st.text(),
        st.builds(Inner, st.text(), st.integers(-(2**63), 2**64 - 1)),
        st.floats(),
        st.booleans(),
    )
)
def test_every_instance_comes_back_the_short_or_the_long_way(value: Outer) -> None:
    text = codec_json.apply(value)
    assert_same(Outer, text)


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_read_or_refused(text: bytes) -> None:
    assert_same(Inner, text)
