"""Groups of consumers in this process."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from evbus.errors import ProfileError
from evbus.types import Delivery, Envelope, Subscription

__all__ = ["Group", "Groups", "group_of"]

Groups = dict[tuple[str, str], "Group"]
_Taps = dict[str, list[Callable[[list[Envelope]], None]]]

#: Deliveries that a consumer may have unsettled at once when it says nothing.
PREFETCH = 1000


def group_of(groups: Groups, taps: _Taps, subscription: Subscription) -> Group:
    """Return the group that a subscription belongs to.

    :raises ProfileError: it does not say what it wants.
    """
    if not subscription.name:
        raise ProfileError("a subscription to internal events has a name, the routing key of the events")
    own = secrets.token_hex(4) if subscription.per_process else ""
    key = (subscription.name, f"{subscription.group}{own}")
    found = groups.get(key)
    if found is None:
        found = groups[key] = Group(key, groups, taps)
    return found


class Group:
    """Consumers that share the events of one name."""

    def __init__(self, key: tuple[str, str], groups: Groups, taps: _Taps) -> None:
        self._key = key
        self._groups = groups
        self._taps = taps
        self._waiting: deque[tuple[Envelope, int]] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._consumers = 0
        taps.setdefault(key[0], []).append(self._take)

    def __repr__(self) -> str:
        return f"<Group {'::'.join(self._key)} waiting={len(self._waiting)} consumers={self._consumers}>"

    def _take(self, events: list[Envelope]) -> None:
        self._waiting.extend([(event, 0) for event in events])
        self._wake()

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    async def deliveries(self, subscription: Subscription) -> AsyncGenerator[Delivery, None]:
        """Yield deliveries, at most ``prefetch`` of them unsettled."""
        most = subscription.prefetch or PREFETCH
        unsettled: dict[int, tuple[Envelope, int]] = {}
        free = asyncio.Event()
        number = 0

        def settle(tag: int, accepted: bool, requeue: bool) -> None:
            event, count = unsettled.pop(tag)
            free.set()
            if not accepted and requeue:
                self._waiting.appendleft((event, count + 1))
                self._wake()

        self._consumers += 1
        try:
            while True:
                while self._waiting and len(unsettled) < most:
                    number += 1
                    entry = unsettled[number] = self._waiting.popleft()
                    event, count = entry
                    yield Delivery(event, settle, number, redelivered=count > 0, delivery_count=count)
                if len(unsettled) >= most:
                    free.clear()
                    await free.wait()
                    continue
                idle: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle
        finally:
            self._consumers -= 1
            self._waiting.extendleft([(event, count + 1) for event, count in reversed(unsettled.values())])
            self._wake()
            if not self._consumers and not subscription.durable:
                self._end()

    def _end(self) -> None:
        name = self._key[0]
        del self._groups[self._key]
        self._taps[name].remove(self._take)
        if not self._taps[name]:
            del self._taps[name]
