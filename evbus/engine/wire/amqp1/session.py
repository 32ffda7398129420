"""One AMQP 1.0 connection as long as it lives: proton's engine, fed and emptied by asyncio.

proton's own I/O is a container that wants a thread to itself, and whose objects may be touched by that thread
alone. Its engine is neither: bytes go in, events and bytes come out. So the bytes are asyncio's business, TLS
with them, and no thread is needed. Sections named here are those of the specification.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from evbus.engine.wire.amqp1.address import is_rabbitmq3
from evbus.engine.wire.amqp1.library import cproton, proton
from evbus.engine.wire.amqp1.link import Link, Receiver, SendingLink, condition_of
from evbus.engine.wire.amqp1.profile import Profile
from evbus.engine.wire.base.session import BrokerSession
from evbus.errors import DeliveryError

__all__ = ["FORCED", "Amqp1Session"]

#: The condition with which a broker closes a connection for reasons of its own (section 2.8.16).
FORCED = "amqp:connection:forced"
#: Bytes that are taken out of the engine at once, and the largest frame that is asked for.
CHUNK = 64 * 1024


class Amqp1Session(BrokerSession[Mapping[str, Any]]):
    """A connection as long as it lives.

    The objects of the engine are used by the event loop's thread alone, and are never handed out: when the
    garbage collector of another thread frees one while the engine runs, the process is gone.

    A link is *leaving* once it was ended here, until the other side has ended it too; then its session is
    *ending*, until the other side has ended that.

    :param hostname: the field of ``open``, by which brokers choose a vhost.
    :param container: what the process is called there.
    :ivar opened: the properties that the broker tells of itself (section 2.7.1), once it takes links.
    :ivar heard: the first bytes that came.
    :ivar broke: whether the other side ended it without a cause of its own, such as an operator: then what
        was in flight may be the cause.
    :ivar refused: condition and description with which the broker closed the connection.
    """

    def __init__(self, profile: Profile, hostname: str, container: str) -> None:
        super().__init__()
        self.heard = b""
        self.broke = False
        self.refused: tuple[str, str] = ("", "")
        # The numbers of sessions are used again at once. For RabbitMQ 3, whose answer to "end" may get lost,
        # and which is done with a number when it reads that. RabbitMQ 4 is not: what follows too early goes
        # to the session that ends.
        self._hasty = False
        self._links: dict[str, Link] = {}
        self._leaving: dict[str, Link] = {}
        self._ending_sessions: list[Any] = []
        self._postponed: list[Callable[[], None]] = []
        self._left: asyncio.Future[None] | None = None
        self._count = 0
        self._pumping = self._scheduled = False
        self._ending = ""
        self._handlers: dict[int, Callable[[Any], None]] = {
            cproton.PN_SESSION_REMOTE_OPEN: self._on_session_open,
            cproton.PN_CONNECTION_REMOTE_CLOSE: self._on_close,
            cproton.PN_SESSION_REMOTE_CLOSE: self._on_session_close,
            cproton.PN_LINK_REMOTE_OPEN: self._on_link_open,
            cproton.PN_LINK_REMOTE_CLOSE: self._on_link_close,
            cproton.PN_LINK_REMOTE_DETACH: self._on_link_close,
            cproton.PN_LINK_FLOW: self._on_flow,
            cproton.PN_DELIVERY: self._on_delivery,
            cproton.PN_TRANSPORT_ERROR: self._on_error,
        }
        self._collector = proton.Collector()
        self._connection = proton.Connection()
        self._engine = proton.Transport()
        self._begin(profile, hostname, container)

    def __repr__(self) -> str:
        state = "lost" if self.lost.done() else "up" if self.opened.done() else "opening"
        return f"<Amqp1Session {state} links={len(self._links)}>"

    def _begin(self, profile: Profile, hostname: str, container: str) -> None:
        connection, engine = self._connection, self._engine
        connection.container = container
        connection.hostname = hostname
        if profile.auth == "plain":
            address = profile.where()
            connection.user, connection.password = address.login, address.password
        connection.properties = {proton.symbol("product"): "evbus"}
        connection.collect(self._collector)
        sasl = engine.sasl()
        sasl.allowed_mechs(profile.auth.upper())
        # The engine cannot see that the connection is encrypted: asyncio does that.
        sasl.allow_insecure_mechs = True
        # The engine tells the other side half of it.
        engine.idle_timeout = 2 * profile.heartbeat
        engine.max_frame_size = CHUNK
        engine.bind(connection)
        connection.open()
        # RabbitMQ 3 looks at the vhost when the first session begins, and not before.
        self._first = connection.session()
        self._first.open()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and send what is there."""
        super().connection_made(transport)
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Feed the engine. Whatever goes wrong ends the session and nothing else."""
        if not self.heard:
            self.heard = data[:32]
        engine = self._engine._impl
        view = memoryview(data)
        try:
            while view and not self.lost.done():
                room = cproton.pn_transport_capacity(engine)
                if room <= 0:
                    self._pump()
                    self.fail("the connection was ended")
                    break
                cproton.pn_transport_push(engine, view[:room])
                view = view[room:]
                self._pump()
        except Exception as exc:
            self.fail(f"what the broker sent could not be taken: {type(exc).__name__}: {exc}")

    def resume_writing(self) -> None:
        """Write what the engine has kept meanwhile."""
        super().resume_writing()
        self.flush()

    def _broke(self, reason: str) -> None:
        self.broke = self.broke or not self.lost.done()
        self.fail(reason)

    # The engine

    def flush(self) -> None:
        """Have written, before the loop's next turn, what was given to the engine."""
        if not self._scheduled and not self.lost.done():
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self.write()

    def write(self) -> None:
        """Write what was given to the engine."""
        try:
            self._pump()
        except Exception as exc:
            self.fail(f"the engine failed: {type(exc).__name__}: {exc}")

    def _pump(self) -> None:
        if self._pumping or self.lost.done() or self._transport is None:
            return
        self._pumping = True
        try:
            while self._events() or self._output():
                pass
            if self._ending:
                self.fail(self._ending)
            self._tick()
        finally:
            self._pumping = False

    def _events(self) -> bool:
        """Handle what has happened; return whether anything had."""
        collector, handlers = self._collector._impl, self._handlers
        some = False
        while not self.lost.done():
            event = cproton.pn_collector_peek(collector)
            if not event:
                return some
            some = True
            handler = handlers.get(cproton.pn_event_type(event))
            if handler is not None:
                handler(event)
            # Not before: the engine's objects may go with their last event.
            cproton.pn_collector_pop(collector)
        return False

    def _output(self) -> bool:
        if self._paused or self.lost.done() or self._transport is None:
            return False
        engine = self._engine._impl
        pending = cproton.pn_transport_pending(engine)
        if pending < 0:
            # It is over; the last events say why.
            self._events()
            self.fail(self._ending or "the connection was ended")
            return False
        if not pending:
            return False
        found, data = cproton.pn_transport_peek(engine, min(pending, CHUNK))
        if found <= 0:
            return False
        self._transport.write(data)
        cproton.pn_transport_pop(engine, found)
        return True

    def _tick(self) -> None:
        if self.lost.done():
            return
        due = self._engine.tick(self._loop.time())
        # Beating and checking may have given the engine something to write.
        if not self._paused:
            while self._output():
                pass
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due and not self.lost.done():
            self._timer = self._loop.call_at(max(due, self._loop.time() + 0.001), self._rang)

    def _rang(self) -> None:
        self._timer = None
        self.write()

    # What happens

    def _on_session_open(self, event: Any) -> None:
        if not self.opened.done():
            found = self._connection.remote_properties
            # Keys are symbols, a class of proton's, and values may be; nothing of proton's is handed out.
            properties = {str(key): str(value) for key, value in (found or {}).items()}
            self._hasty = is_rabbitmq3(properties)
            self.opened.set_result(properties)

    def _on_close(self, event: Any) -> None:
        condition = self._connection.remote_condition
        if condition is not None:
            self.refused = condition.name or "", condition.description or ""
        said = ": ".join(part for part in self.refused if part)
        self.broke = self.refused[0] != FORCED
        # The answer has to go out before the end.
        self._connection.close()
        self._ending = f"the broker closed the connection{': ' if said else ''}{said}"

    def _on_error(self, event: Any) -> None:
        condition = self._engine.condition
        name, text = (
            (condition.name or "", condition.description or "") if condition is not None else ("", "")
        )
        if not self.refused[0]:
            self.refused = name, text
        if "idle-timeout" in text:
            self.fail("nothing came from the broker for two heartbeats")
        else:
            self.fail(text or name or "the engine failed")

    def _on_session_close(self, event: Any) -> None:
        ended = cproton.pn_event_session(event)
        said = condition_of(cproton.pn_session_remote_condition(ended))
        if ended == self._first._impl and not self.opened.done():
            self.refused = said
            self._ending = f"the broker takes no session: {': '.join(said)}"
        for link in [link for link in self._links.values() if link.session._impl == ended]:
            self._drop(link, *said)
        for link in [link for link in self._leaving.values() if link.session._impl == ended]:
            self._finish(link)
        for session in [session for session in self._ending_sessions if session._impl == ended]:
            self._ending_sessions.remove(session)
            session.free()
        if not self._ending_sessions:
            postponed, self._postponed = self._postponed, []
            for begin in postponed:
                begin()

    def _on_link_open(self, event: Any) -> None:
        link = self._link_of(event)
        if link is not None:
            link.attached()

    def _on_link_close(self, event: Any) -> None:
        link = self._link_of(event)
        if link is not None:
            self._drop(link, *condition_of(cproton.pn_link_remote_condition(link.impl)))
            return
        leaving = self._leaving.get(cproton.pn_link_name(cproton.pn_event_link(event)))
        if leaving is not None:
            self._finish(leaving)

    def _on_flow(self, event: Any) -> None:
        link = self._link_of(event)
        if link is not None:
            link.flowed()

    def _on_delivery(self, event: Any) -> None:
        delivery = cproton.pn_event_delivery(event)
        link = self._links.get(cproton.pn_link_name(cproton.pn_delivery_link(delivery)))
        if link is not None:
            link.delivered(delivery)

    def _link_of(self, event: Any) -> Link | None:
        return self._links.get(cproton.pn_link_name(cproton.pn_event_link(event)))

    # Links

    def sender(
        self, address: str, capabilities: tuple[str, ...] = (), *, durable: bool = True
    ) -> SendingLink:
        """Attach a link that sends to an address; it tells by :attr:`Link.ready` when it may be used."""
        session, name = self._new()
        link = SendingLink(self, session, session.sender(name), name)
        self._add(link, partial(link.open, target=address, capabilities=capabilities, durable=durable))
        return link

    def receiver(self, address: str, capabilities: tuple[str, ...], *, durable: bool) -> Receiver:
        """Attach a link that receives from an address."""
        session, name = self._new()
        link = Receiver(self, session, session.receiver(name), name)
        self._add(link, partial(link.open, source=address, capabilities=capabilities, durable=durable))
        return link

    def _new(self) -> tuple[Any, str]:
        # A session to each link: RabbitMQ ends the whole session for what is wrong with one of its links.
        self._count += 1
        return self._connection.session(), f"{self._connection.container}-{self._count}"

    def _add(self, link: Link, begin: Callable[[], None]) -> None:
        """Begin a link as soon as that can be done."""
        self._links[link.name] = link
        if self._ending_sessions:
            # The engine would use the number of a session that it has ended itself.
            self._postponed.append(begin)
        else:
            begin()
        self.flush()

    def _drop(self, link: Link, name: str, text: str) -> None:
        """End a link, with a condition: first it and, once the other side has done so, its session."""
        if self._links.get(link.name) is not link:
            return
        del self._links[link.name]
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
            if self._hasty:
                link.session.free()
            else:
                self._ending_sessions.append(link.session)
        link.forget()

    def detach(self, link: Link) -> None:
        """End a link without a word about why; what it has in flight is unknown."""
        if not self.lost.done():
            # What was settled goes out first: the engine forgets it with the session.
            self.write()
            self._drop(link, "", "it was closed")
            self.flush()

    @property
    def unanswered(self) -> bool:
        """Whether the other side has been sent a message of which it has not said what became of it.

        A broker that blocks publishers closes their window (section 2.5.6), and they keep what they have.
        """
        return not self._paused and any(
            isinstance(link, SendingLink) and link.unsettled and not link.session.outgoing_bytes
            for link in self._links.values()
        )

    # The end

    @property
    def authenticated(self) -> bool:
        """Whether the broker has taken the login."""
        return bool(self._engine.authenticated)

    def _ended(self, reason: str, outcome: DeliveryError | None) -> None:
        live, self._links = self._links, {}
        for link in live.values():
            link.lost(reason)
        for link in [*live.values(), *self._leaving.values()]:
            link.forget()
        self._leaving.clear()
        self._postponed.clear()
        self._ending_sessions.clear()
        self._handlers.clear()

    async def close(self) -> None:
        """End the links, say goodbye (``close``, section 2.4.6), and wait for the end of the socket.

        The other side has to have ended the links before: when a connection is closed, RabbitMQ 3 forgets
        what was settled and it has not looked at yet.
        """
        for link in list(self._links.values()):
            self.detach(link)
        while not self.lost.done() and self._leaving:
            self._left = self._loop.create_future()
            waited: set[asyncio.Future[Any]] = {self._left, self.lost}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self.lost.done() and self._transport is not None:
            self._connection.close()
            self.write()
            await asyncio.wait({self.lost})
        await self._over()
