"""Sizes and durations with units."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from evbus.engine.kit.units import Bytes, Seconds, Unit, UnitError, number, with_units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10MB", 10_000_000),
        ("10 mb", 10_000_000),
        ("64KiB", 65_536),
        ("64k", 64_000),
        ("1.5kB", 1_500),
        ("2Gi", 2 * 1024**3),
        ("1TiB", 1024**4),
        ("7B", 7),
        ("7", "7"),
        ("many", "many"),
        ("-1MB", "-1MB"),
    ],
)
def test_sizes(text: str, value: Any) -> None:
    assert number(text, Unit.BYTES) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("30 S", 30.0),
        ("0.1s", 0.1),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1.5h", 5_400.0),
        ("2d", 172_800.0),
        ("30", "30"),
        ("soon", "soon"),
        ("inf", "inf"),
    ],
)
def test_durations(text: str, value: Any) -> None:
    assert number(text, Unit.SECONDS) == value


@pytest.mark.parametrize(
    ("text", "unit", "sentence"),
    [
        (
            "10MX",
            Unit.BYTES,
            "'10MX' has an unknown unit; a number of bytes is right, or one with a unit such as 10MB or",
        ),
        ("10s", Unit.BYTES, "'10s' has an unknown unit"),
        ("1.5B", Unit.BYTES, "'1.5B' is no whole number of bytes"),
        (
            "3 weeks",
            Unit.SECONDS,
            "'3 weeks' has an unknown unit; a number of seconds is right, or one with a unit such",
        ),
        ("10MB", Unit.SECONDS, "'10MB' has an unknown unit"),
    ],
)
def test_what_is_neither_is_refused(text: str, unit: Unit, sentence: str) -> None:
    with pytest.raises(UnitError, match=sentence):
        number(text, unit)


class Inner(msgspec.Struct):
    wait: Seconds = 1.0
    name: str = ""


class Outer(msgspec.Struct):
    size: Annotated[Bytes, msgspec.Meta(ge=0)] = 0
    wait: Seconds | None = None
    inner: Inner | bool = False
    count: int = 0
    name: str = "5m"
    free: dict[str, Any] = {}


def test_only_keys_that_are_sizes_or_durations_have_units() -> None:
    data = {
        "size": "2kB",
        "wait": "1m",
        "inner": {"wait": "2m", "name": "3m"},
        "name": "4m",
        "free": {"wait": "5m"},
    }
    read = msgspec.convert(with_units(data, Outer), Outer, strict=False)
    assert read == Outer(2_000, 60.0, Inner(120.0, "3m"), 0, "4m", {"wait": "5m"})
    assert with_units({"count": "2k", "other": "2k"}, Outer) == {"count": "2k", "other": "2k"}
    with pytest.raises(UnitError) as caught:
        with_units({"inner": {"wait": "2x"}}, Outer)
    assert caught.value.path == ".inner.wait"
    for text in ("1m30s", "-1s", "", "PT5S", "1,5"):
        with pytest.raises(UnitError, match="is no number; a number of seconds is right, or one with a unit"):
            with_units({"wait": text}, Outer)


def test_a_key_that_takes_texts_as_well_has_them() -> None:
    class Both(msgspec.Struct):
        sync: Seconds | Literal["never"] = 1.0

    assert with_units({"sync": "never"}, Both) == {"sync": "never"}
    assert with_units({"sync": "2m"}, Both) == {"sync": 120.0}
    assert with_units({"wait": "null"}, Outer) == {"wait": "null"}
