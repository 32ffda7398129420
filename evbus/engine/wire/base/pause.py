"""The key ``reconnect`` of a profile."""

from __future__ import annotations

import math

import msgspec

from evbus.engine.kit.units import Seconds

__all__ = ["Pause"]


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds between two attempts to connect: a random part of a bound that doubles from min to max."""

    min: Seconds = 0.1
    max: Seconds = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.min <= self.max < math.inf:
            raise ValueError("min and max are seconds with 0 < min <= max")
