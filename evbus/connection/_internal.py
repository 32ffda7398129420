"""What deliveries in this process and their consumers have in common: the profile, and where the two meet."""

from __future__ import annotations

from typing import Protocol

import msgspec

from evbus.types import Envelope

__all__ = ["InternalProfile", "Tap", "Taps"]


class InternalProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A profile of the provider ``internal``.

    :ivar routing_key: template of the queue's key; default: the event's own routing key.
    :ivar limit: most bodies that a queue may hold before publishing waits; 0: any number.
    """

    routing_key: str | None = None
    limit: int = 0

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError("limit must be 0 (any number) or more")


class Tap(Protocol):
    """Subscriptions that share what comes for one routing key.

    :ivar wanted: somebody takes from it.
    """

    wanted: bool

    def __len__(self) -> int:
        """How many events wait."""

    def trim(self, most: int, /) -> int:
        """Drop the oldest beyond ``most``, or while what nobody takes weighs too much, if nobody takes them.

        The latest stays. Returns how many were dropped.
        """

    def put(self, events: list[Envelope], size: int, /) -> None:
        """Take events, whatever waits; ``size`` bytes of bodies in all."""

    async def room(self, limit: int, /) -> None:
        """Return when fewer than ``limit`` events wait."""


Taps = dict[str, list[Tap]]
