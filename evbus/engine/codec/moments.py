"""Offsets from UTC, which ISO 8601 writes in hours and minutes: some of the last century have seconds."""

from __future__ import annotations

import datetime as dt
from typing import Any

__all__ = ["to_the_minute", "written_exactly"]

_UTC = dt.UTC


def to_the_minute(value: Any) -> bool:
    """Return whether the offset of a time, with a date or without, has no seconds; True for anything else."""
    zone = getattr(value, "tzinfo", None)
    if zone is None or zone is _UTC:
        return True
    offset = value.utcoffset()
    return offset is None or not (offset.seconds % 60 or offset.microseconds)


def written_exactly(value: Any) -> Any:
    """Return a date or time as it is, or in UTC when its offset cannot be written; anything else as it is.

    A time of day in UTC may be one of the day before or after.

    :raises OverflowError: in UTC it is before the year 1 or after 9999.
    """
    if to_the_minute(value):
        return value
    if isinstance(value, dt.datetime):
        return value.astimezone(_UTC)
    return dt.datetime.combine(dt.date(2000, 1, 1), value).astimezone(_UTC).timetz()
