"""The form of values that are none of Python's own: numbers, paths and texts of other libraries.

Most of these libraries are not installed where evbus is, so that their classes are known by their names.
"""

from __future__ import annotations

import collections
import datetime as dt
import ipaddress
import math
import numbers
import os
from typing import Any

import msgspec

__all__ = ["natural"]

#: Classes of the standard library whose objects are texts.
_TEXTS = (
    collections.UserString,
    *(ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv4Interface),
    *(ipaddress.IPv6Address, ipaddress.IPv6Network, ipaddress.IPv6Interface),
)
#: Those of others, by their package and name.
_NAMED = frozenset(
    {
        *(("pydantic_core", "Url"), ("pydantic_core", "MultiHostUrl"), ("pydantic", "_BaseUrl")),
        *(("pydantic", "_BaseMultiHostUrl"), ("yarl", "URL"), ("httpx", "URL"), ("starlette", "URL")),
        *(("django", "Promise"), ("bson", "ObjectId"), ("ulid", "ULID")),
    }
)


def natural(value: Any) -> Any:
    """Return a number, a date or a text of Python that means the same, ``msgspec.UNSET`` when there is none.

    ===================================================  =====================================================
    integers, such as ``numpy.int64``                    the integer
    other reals, such as ``numpy.float32``               the float, if that is the same number
    fractions                                            the text ``1/3``
    scalars of numpy: truth, dates, durations            those of Python, if they are the same
    paths (anything with ``__fspath__``)                 the path as a text, or bytes
    ``UserString``, IP addresses and networks            the text
    URLs of yarl, httpx, Starlette and pydantic          the text
    ``ObjectId``, ``ULID``, late texts of Django         the text
    ===================================================  =====================================================
    """
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Rational):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, numbers.Real):
        real = float(value)
        return real if real == value or math.isnan(real) else msgspec.UNSET
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, _TEXTS) or _names(type(value)) & _NAMED:
        return str(value)
    return _scalar(value)


def _names(kind: type) -> set[tuple[str, str]]:
    return {(each.__module__.partition(".")[0], each.__name__) for each in kind.__mro__}


def _scalar(value: Any) -> Any:
    """Convert a scalar of numpy to Python's; return ``UNSET`` for anything else."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is None or getattr(value, "shape", None) != ():
        return msgspec.UNSET
    if kind == "b":
        return bool(value)
    if kind not in "mM":
        found = value.item()  # of an array without dimensions
        return found if isinstance(found, (int, float, str, bytes)) else msgspec.UNSET
    found = value.item()
    if isinstance(found, int):
        # In nanoseconds, of which Python knows thousands.
        rounded = value.astype("datetime64[us]" if kind == "M" else "timedelta64[us]")
        found = rounded.item() if rounded == value else None
    return found if isinstance(found, (dt.date, dt.timedelta)) else msgspec.UNSET
