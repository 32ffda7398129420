"""The links of an AMQP 1.0 connection, from their beginning to the end of their sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from evbus.engine.wire.amqp1.library import cproton
from evbus.engine.wire.amqp1.link import Link, condition_of

__all__ = ["Links"]


class Links:
    """The links of a connection, and the owners that are told of their ends.

    A link is *leaving* once it was ended here, until the other side has ended it too; then its session is
    *ending*, until the other side has ended that.

    :ivar hasty: the numbers of sessions are used again at once. For RabbitMQ 3, whose answer to ``end`` may
        get lost, and which is done with a number when it reads that. RabbitMQ 4 is not: what follows too
        early goes to the session that ends.
    """

    def __init__(self) -> None:
        self.hasty = False
        self._live: dict[str, Link] = {}
        self._leaving: dict[str, Link] = {}
        self._ending: list[Any] = []
        self._postponed: list[Callable[[], None]] = []
        self._left: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._live)

    def all(self) -> list[Link]:
        """Return those that are in use."""
        return list(self._live.values())

    def add(self, link: Link, begin: Callable[[], None]) -> None:
        """Take a new link, and begin it as soon as that can be done."""
        self._live[link.name] = link
        if self._ending:
            # The engine would use the number of a session that it has ended itself.
            self._postponed.append(begin)
        else:
            begin()

    def drop(self, link: Link, name: str, text: str) -> None:
        """End a link, with a condition: first it and, once the other side has done so, its session."""
        if self._live.get(link.name) is not link:
            return
        del self._live[link.name]
        link.ended(name, text)
        if link.leave():
            self._leaving[link.name] = link
        else:
            self._finish(link)

    def _finish(self, link: Link) -> None:
        self._leaving.pop(link.name, None)
        if self._left is not None and not self._left.done():
            self._left.set_result(None)
        if link.release():
            if self.hasty:
                link.session.free()
            else:
                self._ending.append(link.session)
        link.forget()

    def leaving(self) -> asyncio.Future[None] | None:
        """Return None when no link is leaving, else what is done when the next one has left."""
        if not self._leaving:
            return None
        self._left = asyncio.get_running_loop().create_future()
        return self._left

    def session_ended(self, ended: Any, name: str, text: str) -> None:
        """Take note that the other side has ended a session, with a condition."""
        for link in [link for link in self._live.values() if link.session._impl == ended]:
            self.drop(link, name, text)
        for link in [link for link in self._leaving.values() if link.session._impl == ended]:
            self._finish(link)
        for session in [session for session in self._ending if session._impl == ended]:
            self._ending.remove(session)
            session.free()
        if not self._ending:
            postponed, self._postponed = self._postponed, []
            for begin in postponed:
                begin()

    def lost(self, reason: str) -> None:
        """Take note that the connection is gone."""
        live, self._live = self._live, {}
        for link in live.values():
            link.lost(reason)
        for link in [*live.values(), *self._leaving.values()]:
            link.forget()
        self._leaving.clear()
        self._postponed.clear()
        self._ending.clear()

    # What the engine tells

    def on_open(self, event: Any) -> None:
        """The other side has attached a link."""
        link = self._of(event)
        if link is not None:
            link.attached()

    def on_close(self, event: Any) -> None:
        """The other side has detached a link."""
        link = self._of(event)
        if link is not None:
            self.drop(link, *condition_of(cproton.pn_link_remote_condition(link.impl)))
            return
        leaving = self._leaving.get(cproton.pn_link_name(cproton.pn_event_link(event)))
        if leaving is not None:
            self._finish(leaving)

    def on_flow(self, event: Any) -> None:
        """A link has credit."""
        link = self._of(event)
        if link is not None:
            link.flowed()

    def on_delivery(self, event: Any) -> None:
        """Something has happened to a message."""
        delivery = cproton.pn_event_delivery(event)
        link = self._live.get(cproton.pn_link_name(cproton.pn_delivery_link(delivery)))
        if link is not None:
            link.delivered(delivery)

    def _of(self, event: Any) -> Link | None:
        return self._live.get(cproton.pn_link_name(cproton.pn_event_link(event)))
