"""Dates and times whose offset has seconds keep their moment, wherever they stand."""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.codec import json, msgpack
from evbus.engine.codec.moments import to_the_minute, written_exactly
from evbus.engine.codec.typed import reader
from evbus.errors import SerializeError

MONROVIA = dt.datetime(1960, 1, 1, tzinfo=zoneinfo.ZoneInfo("Africa/Monrovia"))
SECONDS = dt.timezone(-dt.timedelta(minutes=44, seconds=30))
TIME = dt.time(23, 30, tzinfo=SECONDS)
WRITTEN = "1960-01-01T00:44:30Z"


class Moment(dt.datetime):
    """What other libraries make of it."""


@dataclasses.dataclass
class Flat:
    name: str
    at: dt.datetime


@dataclasses.dataclass
class One:
    at: dt.datetime


@dataclasses.dataclass
class Nested:
    flat: Flat
    several: list[dt.datetime | None]


class Struct(msgspec.Struct):
    name: str
    at: dt.datetime


class Model(pydantic.BaseModel):
    name: str
    at: dt.datetime


class Open(pydantic.BaseModel):
    at: str | dt.datetime | int
    data: bytes = b"\xff"
    several: list[dt.datetime | str] = []


BODIES: list[Any] = [
    MONROVIA,
    [MONROVIA],
    {"at": MONROVIA},
    {"at": MONROVIA, "url": "a:b"},
    {"deep": [{"at": MONROVIA}]},
    Flat("a", MONROVIA),
    One(MONROVIA),
    Nested(Flat("a", MONROVIA), [None, MONROVIA]),
    Struct("a", MONROVIA),
    Model(name="a", at=MONROVIA),
    Open(at=MONROVIA, several=["a", MONROVIA]),
    [Model(name="a", at=MONROVIA), {1, 2}],
    {MONROVIA: 1},
    Moment(1960, 1, 1, tzinfo=SECONDS),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_an_offset_with_seconds_becomes_utc_in_json(body: Any) -> None:
    for _ in range(2):  # the second time its class is known
        written = json.apply(body).decode()
        assert WRITTEN in written
        assert "00:44" not in written.replace(WRITTEN, "")


@pytest.mark.parametrize(("kind", "body"), [(type(body), body) for body in BODIES[5:10]])
@pytest.mark.parametrize("encoding", [json, msgpack])
def test_an_event_with_such_an_offset_is_read_as_it_was(encoding: Any, kind: Any, body: Any) -> None:
    assert reader(kind)(encoding.load(encoding.apply(body))) == body  # type: ignore[attr-defined]


def test_a_time_of_day_becomes_utc() -> None:
    assert json.apply({"at": TIME}) == b'{"at":"00:14:30Z"}'
    assert msgpack.load(msgpack.apply({"at": TIME})) == {"at": "00:14:30Z"}


@pytest.mark.parametrize("zone", [None, dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=45))])
def test_other_offsets_stay_as_they_are(zone: Any) -> None:
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=zone)
    for body in ({"at": moment}, Flat("a", moment), Model(name="a", at=moment)):
        assert msgspec.json.encode(moment) in json.apply(body)


def test_what_is_no_time_in_a_field_for_one_is_written_as_it_is() -> None:
    assert json.apply(Flat("a", MONROVIA))
    assert json.apply(Flat("a", "tomorrow")) == b'{"name":"a","at":"tomorrow"}'  # type: ignore[arg-type]


def test_what_utc_has_no_year_for_is_refused_with_its_place() -> None:
    with pytest.raises(SerializeError, match=r"raised OverflowError - at \$\.at"):
        json.apply({"at": dt.datetime.max.replace(tzinfo=SECONDS)})


NAIVE = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1))  # noqa: DTZ001 - the offset comes later
OFFSETS = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))


@given(NAIVE, OFFSETS)
def test_whatever_the_offset_is_the_moment_stays(naive: dt.datetime, offset: dt.timedelta) -> None:
    moment = naive.replace(tzinfo=dt.timezone(offset))
    found = written_exactly(moment)
    assert found == moment
    assert to_the_minute(found)
    assert msgspec.json.decode(json.apply(One(moment)), type=One).at == moment
