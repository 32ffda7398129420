"""Typed events within a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from evbus.types import Envelope
from tests.event.transports.behaviour import Behaviour, Inbox


class TestInternal(Behaviour):
    """There is one process: another one's listeners come and go in it."""

    hub: Any = None

    def profiles(self, port: int = 0) -> dict[str, Any]:
        return {"internal": {"default": {}}}

    @asynccontextmanager
    async def process(self, *listeners: Inbox, **options: Any) -> AsyncIterator[Any]:
        if self.hub is not None:
            async with self._within(*listeners) as hub:
                yield hub
            return
        async with super().process(*listeners, **options) as self.hub:
            yield self.hub
        self.hub = None

    @asynccontextmanager
    async def _within(self, *listeners: Inbox) -> AsyncIterator[Any]:
        for inbox in listeners:
            inbox.listen(self.hub)
        await self.hub.event.init.ready()
        yield self.hub
        for inbox in listeners:
            assert await self.hub.event.init.unsubscribe(inbox.id)

    def consumers(self, name: str, group: str) -> int:
        return len(self.hub.ingress.SUBSCRIBERS["default"].groups[name, group]._members)

    async def send_unsigned(self, hub: Any) -> None:
        (group,) = hub.ingress.SUBSCRIBERS["default"][self.name]
        body = b'{"number": 1}'
        group.put([Envelope("default", self.name, body)], len(body))
