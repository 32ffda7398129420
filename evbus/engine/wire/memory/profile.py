"""The profile of deliveries in this process."""

from __future__ import annotations

import msgspec

__all__ = ["InternalProfile"]


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
