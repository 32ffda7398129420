"""Types of every shape: what is read of a text does not depend on the way, nor on the shape."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import json
import typing
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evbus.engine.codec import json as codec_json
from evbus.engine.codec import msgpack
from evbus.engine.codec.typed import reader, wants_digits
from evbus.errors import EvbusError, SerializeError


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Typed(NamedTuple):
    """A type, and JSON texts for it, most of which fit."""

    kind: Any
    texts: st.SearchStrategy[str]


class Refused:
    """What reading ends with when a text does not fit."""

    def __repr__(self) -> str:
        return "refused"


NUMBERS = st.sampled_from(
    [
        *("0", "-0.0", "5", "1.50", "0.1000", "12345678901234567.89", "1e16", "-1E+2", "0.1e-999", "1e400"),
        *("123456789012345678901234567890", "NaN", "-Infinity", "1" * 4301),
    ]
)
INTEGERS = st.sampled_from(["0", "5", "-7", "9223372036854775807", "5.0", "1e400"])
TEXTS = st.text(max_size=4).map(json.dumps)
QUOTED = st.sampled_from(['"1.50"', '"-1e400"', '"NaN"', '"x"'])
ANYTHING = st.recursive(
    st.sampled_from(["null", "true"]) | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda parts: f"[{','.join(parts)}]")
        | inner.map(lambda part: f'{{"a":{part}}}')
    ),
    max_leaves=4,
)
DATES = st.sampled_from(['"2026-01-02"', '"2026-13-02"'])
MOMENTS = st.sampled_from(['"2026-01-02T03:04:05.678+01:00"', '"2026-01-02T03:04:05"', "5"])
SCALARS = [
    Typed(str, TEXTS),
    Typed(int, INTEGERS),
    Typed(float, NUMBERS),
    Typed(bool, st.sampled_from(["true", "false"])),
    Typed(decimal.Decimal, NUMBERS | QUOTED),
    Typed(uuid.UUID, st.sampled_from([f'"{uuid.UUID(int=7)}"', '"7"'])),
    Typed(dt.datetime, MOMENTS),
    Typed(dt.date, DATES),
    Typed(dt.timedelta, st.sampled_from(['"PT1.5S"', '"-P1D"'])),
    Typed(bytes, st.sampled_from(['"AP8="', '"a"'])),
    Typed(Color, st.sampled_from(['"red"', '"green"'])),
    Typed(Any, ANYTHING),
    Typed(float | decimal.Decimal, NUMBERS | QUOTED),
    Typed(int | decimal.Decimal, INTEGERS | NUMBERS | QUOTED),
    Typed(typing.Annotated[decimal.Decimal, msgspec.Meta(title="t")], NUMBERS),
]
HASHABLE = [each for each in SCALARS if each.kind is not Any]
NAMES = ["text", "real_number", "n"]
COUNTER = itertools.count()


@st.composite
def records(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    """Draw a class with one to three fields, some of which have defaults."""
    fields = []
    for name in NAMES[: draw(st.integers(1, 3))]:
        each, default = draw(inner), draw(st.booleans())
        fields.append((name, Typed(each.kind | None, each.texts) if default else each, default))
    form = draw(st.sampled_from(["dataclass", "struct", "camel", "tagged", "array", "dict", "tuple"]))
    title = f"Made{next(COUNTER)}"
    if form == "dataclass":
        kind: Any = dataclasses.make_dataclass(
            title,
            [
                (name, each.kind, dataclasses.field(default=None) if default else dataclasses.field())
                for name, each, default in fields
            ],
            kw_only=True,
        )
    elif form == "dict":
        kind = typing.TypedDict(
            title, {name: each.kind for name, each, _ in fields}, total=draw(st.booleans())
        )  # type: ignore[operator]
    elif form == "tuple":
        kind = NamedTuple(title, [(name, each.kind) for name, each, _ in fields])  # type: ignore[misc]
    else:
        options: dict[str, Any] = {
            "camel": {"rename": "camel"},
            "tagged": {"tag": "t"},
            "array": {"array_like": True},
        }
        kind = msgspec.defstruct(
            title,
            [(name, each.kind, None) if default else (name, each.kind) for name, each, default in fields],
            kw_only=True,
            **options.get(form, {}),
        )
    if form in ("array", "tuple"):
        return Typed(
            kind, st.tuples(*(each.texts for _, each, _ in fields)).map(lambda parts: f"[{','.join(parts)}]")
        )
    written = {name: "realNumber" if form == "camel" and name == "real_number" else name for name in NAMES}
    return Typed(kind, objects([(written[name], each.texts) for name, each, _ in fields], form == "tagged"))


@st.composite
def objects(draw: st.DrawFn, fields: list[tuple[str, st.SearchStrategy[str]]], tagged: bool) -> str:
    """Draw the text of an object: now and then a key is missing, unknown, or there twice."""
    parts = [(name, draw(texts)) for name, texts in fields if draw(st.integers(0, 5))]
    if tagged:
        parts.insert(draw(st.integers(0, len(parts))), ("type", '"t"'))
    if not draw(st.integers(0, 3)):
        parts.append((draw(st.sampled_from(["new", "n", "t:"])), draw(ANYTHING)))
    colon = draw(st.sampled_from([":", " : "]))
    return "{" + ",".join(f"{json.dumps(name)}{colon}{text}" for name, text in parts) + "}"


def listed(each: Typed) -> st.SearchStrategy[str]:
    return st.lists(each.texts, max_size=3).map(lambda parts: f"[{','.join(parts)}]")


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda each: Typed(list[each.kind], listed(each))),  # type: ignore[name-defined]
        inner.map(lambda each: Typed(tuple[each.kind, ...], listed(each))),  # type: ignore[name-defined]
        st.sampled_from(HASHABLE).map(lambda each: Typed(set[each.kind], listed(each))),  # type: ignore[name-defined]
        st.tuples(inner, inner).map(
            lambda both: Typed(
                tuple[both[0].kind, both[1].kind],  # type: ignore[name-defined]
                st.tuples(both[0].texts, both[1].texts).map(lambda parts: f"[{','.join(parts)}]"),
            )
        ),
        inner.map(
            lambda each: Typed(dict[str, each.kind], each.texts.map(lambda text: f'{{"k":{text}}}'))  # type: ignore[name-defined]
        ),
        inner.map(lambda each: Typed(each.kind | None, each.texts | st.just("null"))),
        records(inner),
    )


TYPES = st.recursive(st.sampled_from(SCALARS), containers, max_leaves=6)


def exactly(value: Any) -> Any:
    """Return what tells values apart: their types and digits, too."""
    if isinstance(value, dict):
        return {key: exactly(inner) for key, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(exactly(inner)) for inner in value)
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(inner) for inner in value]
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None) if value.tzinfo is None else value.astimezone(dt.UTC)
    if isinstance(value, msgspec.Struct):
        return type(value), [exactly(getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        return type(value), {
            field.name: exactly(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return type(value), repr(value)


def outcome(read: Callable[[], Any]) -> Any:
    try:
        return exactly(read())
    except (ValueError, EvbusError):
        return Refused


def plainly(kind: Any, text: bytes) -> Any:
    digits = wants_digits(kind)
    return reader(kind, digits=digits)((codec_json.exact_load if digits else codec_json.load)(text))


@settings(deadline=None)
@given(TYPES.flatmap(lambda each: st.tuples(st.just(each.kind), each.texts)))
def test_the_short_way_reads_what_the_plain_way_reads(drawn: tuple[Any, str]) -> None:
    kind, text = drawn[0], drawn[1].encode("utf-8", "surrogatepass")
    plain, typed = outcome(lambda: plainly(kind, text)), codec_json.typed(kind)
    assert typed is not None
    assert outcome(lambda: typed(text)) in (Refused, plain)


@settings(deadline=None)
@given(TYPES.flatmap(lambda each: st.tuples(st.just(each.kind), each.texts)))
def test_what_was_written_here_is_read_as_what_came_from_elsewhere(drawn: tuple[Any, str]) -> None:
    kind, text = drawn[0], drawn[1].encode("utf-8", "surrogatepass")
    value = outcome(lambda: plainly(kind, text))
    assume(value is not Refused)
    written, own = codec_json.apply(plainly(kind, text)), codec_json.own(kind)
    assert own is not None
    assert outcome(lambda: own(written)) in (Refused, outcome(lambda: plainly(kind, written)))


@settings(deadline=None)
@given(TYPES.flatmap(lambda each: st.tuples(st.just(each.kind), each.texts)))
def test_digits_are_left_nowhere(drawn: tuple[Any, str]) -> None:
    kind, text = drawn[0], drawn[1].encode("utf-8", "surrogatepass")
    with_digits = outcome(lambda: reader(kind, digits=True)(codec_json.exact_load(text)))
    assert "Number" not in repr(with_digits)
    if not wants_digits(kind):
        assert outcome(lambda: reader(kind)(codec_json.load(text))) in (with_digits, Refused)


@settings(deadline=None)
@given(TYPES.flatmap(lambda each: st.tuples(st.just(each.kind), each.texts)))
def test_what_was_read_is_written_and_read_again_as_json_and_as_messagepack(drawn: tuple[Any, str]) -> None:
    kind, text = drawn
    try:
        value = plainly(kind, text.encode("utf-8", "surrogatepass"))
    except (ValueError, EvbusError):
        assume(False)
    assert outcome(lambda: plainly(kind, codec_json.apply(value))) == exactly(value)
    try:
        packed = msgpack.apply(value)
    except SerializeError as exc:
        assert "64 bits" in str(exc)  # noqa: PT017 - which depends on what was drawn
    else:
        assert outcome(lambda: reader(kind)(msgpack.load(packed))) == exactly(value)
