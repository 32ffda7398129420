"""Numbers, paths and texts that are none of Python's own."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import ipaddress
import math
import numbers
import pathlib
import types
from typing import Any

import msgspec
import pydantic
import pytest
import yarl

from evbus.engine.codec import json, msgpack
from evbus.engine.codec.natural import natural
from evbus.errors import SerializeError


class Whole:
    """An integer that is no int, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return int(self) == other


class Single:
    """A real number that is no float."""

    def __init__(self, value: decimal.Decimal) -> None:
        self.value = value

    def __float__(self) -> float:
        return float(self.value)

    def __eq__(self, other: object) -> bool:
        return self.value == other

    __hash__ = None  # type: ignore[assignment]


numbers.Integral.register(Whole)
numbers.Real.register(Single)


class Scalar:
    """A scalar as numpy has them: a kind, no dimensions, and what it is in Python."""

    shape = ()

    def __init__(self, kind: str, item: Any, rounded: Any = None, *, lost: bool = False) -> None:
        self.dtype = types.SimpleNamespace(kind=kind)
        self._item = item
        self._rounded = rounded
        self._lost = lost

    def __bool__(self) -> bool:
        return bool(self._item)

    def item(self) -> Any:
        return self._item

    def astype(self, _unit: str) -> Any:
        """Return it in microseconds, equal to this one when nothing was lost."""
        return Microseconds(self._rounded, None if self._lost else self)


class Microseconds(Scalar):
    """What a scalar is in microseconds."""

    def __init__(self, item: Any, equal: Any) -> None:
        super().__init__("M", item)
        self._equal = equal

    def __eq__(self, other: object) -> bool:
        return other is self._equal

    __hash__ = None  # type: ignore[assignment]


#: Classes of packages that are not installed, which are known by their names.
LAZY = type("Promise", (), {"__module__": "django.utils.functional", "__str__": lambda self: "hallo"})
OBJECT_ID = type("ObjectId", (), {"__module__": "bson.objectid", "__str__": lambda self: "65f0"})
DAY = dt.datetime(2026, 1, 2, 3, 4)  # noqa: DTZ001 - those of numpy have no zone

FORMS = [
    (Whole(5), 5),
    (Whole(2**60), 2**60),
    (Single(decimal.Decimal("0.5")), 0.5),
    (fractions.Fraction(1, 3), "1/3"),
    (Scalar("b", item=True), True),
    (Scalar("i", 7), 7),
    (Scalar("M", DAY), "2026-01-02T03:04:00"),
    (Scalar("M", 1767323040000000000, DAY), "2026-01-02T03:04:00"),
    (Scalar("m", dt.timedelta(seconds=1)), "PT1S"),
    (pathlib.PurePosixPath("/var/log"), "/var/log"),
    (collections.UserString("text"), "text"),
    (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    (ipaddress.ip_network("10.0.0.0/30"), "10.0.0.0/30"),
    (ipaddress.ip_interface("fe80::1/64"), "fe80::1/64"),
    (yarl.URL("https://example.org/a?b=1"), "https://example.org/a?b=1"),
    (pydantic.AnyUrl("https://example.org/a"), "https://example.org/a"),
    (pydantic.PostgresDsn("postgres://h/db"), "postgres://h/db"),
    (LAZY(), "hallo"),
    (OBJECT_ID(), "65f0"),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("coding", [json, msgpack], ids=["json", "msgpack"])
def test_what_another_library_has_is_written_as_what_it_is(value: Any, form: Any, coding: Any) -> None:
    assert coding.load(coding.apply({"a": value, "b": [value]})) == {"a": form, "b": [form]}


@pytest.mark.parametrize("key", [Whole(5), pathlib.PurePosixPath("/a"), fractions.Fraction(1, 2)])
def test_keys_have_the_same_forms(key: Any) -> None:
    (written,) = json.load(json.apply({key: 1}))
    assert written == str(natural(key))
    with pytest.raises(SerializeError, match="two keys are both written as"):
        json.apply({key: 1, written: 2})


@pytest.mark.parametrize(
    "value",
    [
        Single(decimal.Decimal("0.1")),  # which no float is
        Scalar("M", None),  # no time at all
        Scalar("M", 1767323040000000001, DAY, lost=True),  # within a microsecond
        Scalar("V", (1, 2)),
        Scalar("c", 1j),
        pydantic.SecretStr("s3cret"),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("coding", [json, msgpack], ids=["json", "msgpack"])
def test_what_would_become_something_else_is_refused(value: Any, coding: Any) -> None:
    assert natural(value) is msgspec.UNSET
    with pytest.raises(SerializeError, match=r"has no plain form; .* - at \$\.a\[1\]$") as caught:
        coding.apply({"a": [0, value]})
    assert "s3cret" not in str(caught.value)


def test_a_number_that_is_none_stays_none() -> None:
    assert math.isnan(natural(Single(decimal.Decimal("NaN"))))
