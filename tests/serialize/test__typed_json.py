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
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus._typed import reader
from evbus.errors import EvbusError
from evbus.serialize import _json


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


def reading(kind: type) -> Callable[[bytes], Any]:
    """Return what reads a class in one go."""
    found = _json.typed(kind)
    assert found is not None
    return found


def outcome(read: Callable[[], Any]) -> Any:
    """Return what reading returns, None when it refuses."""
    try:
        return read()
    except (ValueError, EvbusError):
        return None


def assert_same(kind: type, text: bytes) -> None:
    """Check that it returns what the long way returns, or leaves the text to that."""
    slow = outcome(lambda: reader(kind)(_json.load(text)))
    fast = outcome(lambda: reading(kind)(text))
    assert fast is None or fast == slow


@pytest.mark.parametrize(
    "value",
    [
        Inner("x", 1),
        Outer("a: b", Inner("x", 5), 1.5, truth=True),
        Scalars(
            Color.RED,
            dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc),
            uuid.UUID(int=1),
            decimal.Decimal("1.10"),
            b"\x00",
        ),
        Struct("ann", Inner("x", 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_written_is_read(value: Any) -> None:
    assert reading(type(value))(_json.apply(value)) == value


@pytest.mark.parametrize(
    "kind", [Defaulted, Node, Endless, Tagged, Listed, int, list[Inner], dict[str, int]], ids=str
)
def test_there_is_none_where_the_number_of_keys_varies_or_is_not_known(kind: Any) -> None:
    if kind is int:
        assert reading(int)(b"5") == 5
    else:
        assert _json.typed(kind) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"text":"a","text":"b","number":1}',
        b'{"text":"a","number":1,"number":1}',
        b'{"text":"a","number":1,"new":2}',
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
    assert outcome(lambda: reader(Inner)(_json.load(text))) is not None


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


@given(objects(), st.sampled_from([Inner, Outer]))
def test_it_never_returns_what_the_long_way_would_not(text: str, kind: type) -> None:
    assert_same(kind, text.encode("utf-8", "surrogatepass"))


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
    text = _json.apply(value)
    assert_same(Outer, text)


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_are_read_or_refused(text: bytes) -> None:
    assert_same(Inner, text)
