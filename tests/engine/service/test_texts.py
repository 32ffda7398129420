"""Values as texts: what is written is read again, and what could be two things is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.codec.typed import reader
from evbus.engine.service.texts import texts_of
from evbus.errors import InvalidPayload, PayloadError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Item:
    name: str


TYPES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(),
    dt.date: st.dates(),
    dt.datetime: st.datetimes(timezones=st.just(dt.UTC)),
    dt.timedelta: st.timedeltas(dt.timedelta(-10000), dt.timedelta(10000)),
    decimal.Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    uuid.UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Literal["a", 1]: st.sampled_from(["a", 1]),
    int | float: st.one_of(st.integers(-1000, 1000), st.floats(-10, 10)),
}


@given(st.data())
def test_what_is_written_is_read_again(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(TYPES)))
    value = data.draw(TYPES[kind])
    texts = texts_of(kind)
    assert texts is not None
    written = texts.write(value)
    assert len(written) == 1
    assert reader(kind)(texts.read(written)) == value


@given(st.data())
def test_lists_are_read_again(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(TYPES)))
    value = data.draw(st.lists(TYPES[kind], min_size=1))
    texts = texts_of(list[kind])
    assert texts is not None
    assert texts.several
    written = texts.write(value)
    assert len(written) == len(value)
    assert reader(list[kind])(texts.read(written)) == value


@pytest.mark.parametrize("kind", [set[int], frozenset[int], tuple[int, ...], list[int] | None])
def test_other_collections_are_lists_too(kind: Any) -> None:
    texts = texts_of(kind)
    assert texts is not None
    assert sorted(reader(kind)(texts.read(texts.write([2, 1])))) == [1, 2]


@pytest.mark.parametrize(
    "kind",
    [Item, dict[str, int], list[Item], list[list[int]], int | str, bool | str, tuple[int, str], object],
)
def test_what_is_no_text_or_could_be_two_things_has_none(kind: Any) -> None:
    assert texts_of(kind) is None


def test_none_is_no_text_at_all() -> None:
    texts = texts_of(int | None)
    assert texts is not None
    assert texts.nullable
    assert texts.write(None) == []
    assert texts.write(0) == ["0"]
    # As httpx writes None.
    assert texts.read([""]) is None


def test_an_empty_text_is_one() -> None:
    texts = texts_of(str | None)
    assert texts is not None
    assert texts.read([""]) == ""


@pytest.mark.parametrize("text", ["", " 1", "1_000", "one", "1.5", "٣", "1" * 5000])
def test_a_text_that_is_no_number_stays_one(text: str) -> None:
    texts = texts_of(int)
    assert texts is not None
    assert texts.read([text]) == text
    with pytest.raises(InvalidPayload, match="this is no int"):
        reader(int)(texts.read([text]))


def test_numbers_without_end() -> None:
    texts = texts_of(float)
    assert texts is not None
    assert math.isnan(texts.read(texts.write(math.nan)))
    assert texts.read(["inf"]) == math.inf
    assert texts.read(["1e999"]) == "1e999"  # which is none, and no infinity


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_truth_as_others_write_it(text: str) -> None:
    texts = texts_of(bool)
    assert texts is not None
    assert texts.read([text]) is True


def test_one_value_comes_once() -> None:
    texts = texts_of(int)
    assert texts is not None
    with pytest.raises(InvalidPayload, match="it came 2 times, and is one value"):
        texts.read(["1", "2"])


def test_values_without_a_text_are_refused() -> None:
    anything = texts_of(Any)
    several = texts_of(list[str])
    assert anything is not None
    assert several is not None
    with pytest.raises(PayloadError, match="a value of the type dict cannot stand in a text"):
        anything.write({"a": 1})
    with pytest.raises(PayloadError, match="a list is wanted here, and not str"):
        several.write("abc")
