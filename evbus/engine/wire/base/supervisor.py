"""One live connection to a message system, under one task that restores it for ever."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.failure import trace
from evbus.engine.kit.redact import one_line, redact, said
from evbus.engine.kit.waiting import call, timeout_of
from evbus.errors import ConnectFailed, Unavailable

__all__ = ["Connection", "ConnectionState", "Consumers", "LiveSession"]

log = logging.getLogger("evbus.connection")

#: Seconds that the polite end of a connection may take.
CLOSE_TIMEOUT = 3.0
#: Seconds that a connection has to live for the next attempt to come without a pause.
SHORT_LIFE = 1.0
#: Seconds after a connection, or a consumer, is there again in which others may still be coming back: lanes
#: wait for the consumers of their own broker, and an event that reaches no queue is tried again.
SETTLING = 5.0


class ConnectionState(Enum):
    """The states of a connection."""

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


class LiveSession(Protocol):
    """A connection as long as it lives: what a transport's ``dial`` returns."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done when it is gone, with the reason as its result."""

    @property
    def blocked(self) -> str:
        """The reason for which the other side takes nothing at present, ``""`` when it does."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever ``blocked`` does."""

    async def close(self) -> None:
        """End it politely; cancelled, it ends at once."""

    def abort(self) -> None:
        """End it without a word."""


class Consumers:
    """The connections to one broker in this process, and its consumers, as far as they are not there.

    Lanes wait for the consumers, as their queues may not be there before, or have gone with the connection.
    """

    def __init__(self) -> None:
        self.connections: set[Connection[Any]] = set()
        self._down: set[Connection[Any]] = set()
        self.changed = -math.inf
        self._away: dict[object, float] = {}
        # Since when there has always been one that lanes may wait for, if there is one.
        self._awaited = -math.inf

    def __bool__(self) -> bool:
        """Return whether somebody is away."""
        return bool(self._away)

    def down(self, connection: Connection[Any]) -> int:
        """Note that a connection is not there; return the level at which to log it: once for the profile."""
        level = logging.DEBUG if self._is_down(connection.name) else logging.WARNING
        self._down.add(connection)
        return level

    def up(self, connection: Connection[Any]) -> int:
        """Note that a connection is there; return the level at which to log it: when all of them are."""
        lost = connection in self._down
        self._down.discard(connection)
        # As that it was lost: a log that shows this one is not to end with it.
        return logging.WARNING if lost and not self._is_down(connection.name) else logging.DEBUG

    def _is_down(self, profile: str) -> bool:
        return any(connection.name == profile for connection in self._down)

    def gone(self, consumer: object) -> None:
        """Note that a consumer is not there (yet, or any more) and is about to be."""
        # One that fails again and again is gone once: events do not wait anew for its queue each time.
        if consumer not in self._away:
            now = self._now()
            if now > self._last() + SETTLING:
                self._awaited = now
            self._away[consumer] = now

    def back(self, consumer: object) -> None:
        """Note that a consumer is there."""
        self._now()
        self.closed(consumer)

    def closed(self, consumer: object) -> None:
        """Forget a consumer."""
        if self._away.pop(consumer, None) is not None:
            for connection in self.connections:
                connection.tell()

    def _now(self) -> float:
        self.changed = asyncio.get_running_loop().time()
        return self.changed

    def missing(self, since: float) -> float:
        """Return for how many seconds to wait for them on a connection that is up ``since``."""
        if not self._away:
            return 0.0
        # The last one is waited for the longest. But others may follow for ever, one after the other.
        gone = min(self._last(), self._awaited + SETTLING)
        return max(since, gone) + SETTLING - asyncio.get_running_loop().time()

    def _last(self) -> float:
        # There may be thousands, and lanes look whenever one comes.
        return next(reversed(self._away.values()), -math.inf)


S = TypeVar("S", bound=LiveSession)


class Connection(Generic[S]):
    """A connection that heals itself.

    :param name: what it is called in errors and logs: ``amqp profile 'orders'``.
    :param dial: makes a session, trying the host of the given number (counted up with every attempt) first.
    :param pause: least and most seconds between two attempts (full jitter below a doubling bound).
    :param wait: whether :meth:`open` returns although the first attempts failed.
    :param attempts: how many of them decide that, without a pause between: one for each host.
    :param secrets: what must not appear in a log line or an error.
    """

    def __init__(
        self,
        name: str,
        dial: Callable[[int], Coroutine[Any, Any, S]],
        *,
        pause: tuple[float, float],
        wait: bool = False,
        attempts: int = 1,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.consumers = Consumers()
        self.state = ConnectionState.CLOSED
        self.session: S | None = None
        self.last_error = ""
        self.connects = 0
        #: Told that it is there, or not any more (with the reason), if that is to be told.
        self.on_state: Callable[[bool, str], None] | None = None
        self.secrets = secrets
        self._dial = dial
        self._pause = pause
        self._wait = wait
        self._attempts = attempts
        self._since = time.time()
        self._up = -math.inf
        self._logged_as = name
        self._task: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.name} {self.state.value}>"

    def snapshot(self) -> dict[str, Any]:
        """Return ``state``, ``since`` (seconds since 1970), ``connects``, ``blocked`` and ``last_error``."""
        return {
            "state": self.state.value,
            "since": self._since,
            "connects": self.connects,
            "blocked": self.session.blocked if self.session is not None else "",
            "last_error": self.last_error,
        }

    def join(self, consumers: Consumers, role: str = "") -> None:
        """Belong to a broker with these consumers; ``role`` says in the log whose connection it is."""
        self.consumers = consumers
        consumers.connections.add(self)
        if role:
            self._logged_as = f"{self.name} ({role})"

    async def open(self) -> None:
        """Connect, and stay connected until :meth:`close`.

        :raises ConnectFailed: the first attempt failed, and the connection is not one that waits.
        """
        first: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(first))
        try:
            problem = await first
        except asyncio.CancelledError:
            await self.close()
            raise
        if problem is not None and not self._wait:
            await self.close()
            raise ConnectFailed(f"{self.name}: {self.last_error}")

    async def close(self) -> None:
        """End the connection, politely if that is quickly done."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
        self.consumers.connections.discard(self)
        self.consumers.up(self)
        self._become(ConnectionState.CLOSED)

    def up(self) -> S:
        """Return the live session.

        :raises Unavailable: there is none at present; says why.
        """
        session = self.session
        # It may be lost, and our task not have had its turn yet.
        if session is None or session.lost.done():
            raise self.unavailable()
        return session

    async def live(self) -> S | None:
        """Return the live session once there is one, None when the connection was closed.

        :raises Unavailable: the deadline of the delivery that waits for it was over first.
        """
        while self.session is None or self.session.lost.done():
            if self.state is ConnectionState.CLOSED:
                return None
            try:
                await self.changed()
            except asyncio.CancelledError as exc:
                if timeout_of(exc) is None:
                    raise
                raise self.unavailable() from exc
        return self.session

    def unavailable(self) -> Unavailable:
        """Return the error of an event that cannot be sent now."""
        if self.state is ConnectionState.CLOSED:
            return Unavailable(f"{self.name}: the connection is closed")
        why = self.last_error
        if self.session is not None and self.session.lost.done():
            why = self.clean(self.session.lost.result())
        return Unavailable(f"{self.name}: not connected: {why or 'the first attempt is under way'}")

    def ready(self) -> tuple[str, Awaitable[None]] | None:
        """Return None when the session takes events, else why not, and what to await until it does.

        The waiting ends as well when the connection is closed.
        """
        if self._takes():
            return self._consumers_away() if self.consumers else None
        if self.state is ConnectionState.CLOSED:
            return None
        blocked = self.session.blocked if self.session is not None else ""
        why = f"{self.name}: the broker blocks publishers: {blocked}" if blocked else str(self.unavailable())
        return one_line(why), self._until_ready()

    def _consumers_away(self) -> tuple[str, Awaitable[None]] | None:
        left = self.consumers.missing(self._up)
        if left <= 0:
            return None
        return f"{self.name}: consumers of this process are not there yet", self._change_within(left)

    async def _change_within(self, seconds: float) -> None:
        await asyncio.wait({self._change()}, timeout=seconds)

    @property
    def settling(self) -> float:
        """Seconds for which queues may be coming back, as the connection or consumers were away just now."""
        until = max(self._up, self.consumers.changed) + SETTLING
        return max(0.0, until - asyncio.get_running_loop().time())

    def _takes(self) -> bool:
        session = self.session
        return session is not None and not session.blocked and not session.lost.done()

    async def _until_ready(self) -> None:
        while not self._takes() and self.state is not ConnectionState.CLOSED:
            await self.changed()

    async def changed(self) -> None:
        """Return after the next change of the state, or of whether the session is blocked."""
        await asyncio.shield(self._change())

    def _change(self) -> asyncio.Future[None]:
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def tell(self) -> None:
        """Wake whoever waits for a change."""
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    def _become(self, state: ConnectionState) -> None:
        if state is not self.state:
            was_up, self.state = self.state is ConnectionState.UP, state
            if self.on_state is not None and (was_up or state is ConnectionState.UP):
                self.on_state(not was_up, "" if state is ConnectionState.CLOSED else self.last_error)
            self._since = time.time()
            self.tell()

    async def _run(self, first: asyncio.Future[Exception | None]) -> None:
        failures = attempts = short_lives = 0
        while True:
            self._become(ConnectionState.CONNECTING)
            try:
                # A client library may raise CancelledError although nobody cancelled anything.
                session: S = await call(self._dial(attempts), 0)
            except Exception as exc:
                attempts += 1
                failures += 1
                self._failed(exc, failures)
                if failures % self._attempts:
                    continue
                if not first.done():
                    first.set_result(exc)
                await asyncio.sleep(backoff(failures // self._attempts, *self._pause))
                continue
            level = self.consumers.up(self)
            if self.connects or level > logging.DEBUG:
                log.log(level, "%s: connected%s", self.name, " again" if self.connects else "")
            self.connects += 1
            began = asyncio.get_running_loop().time()
            await self._live(session, first)
            failures = 0
            if asyncio.get_running_loop().time() - began >= SHORT_LIFE:
                short_lives = 0
            else:
                # A broker that takes connections and drops them is not asked again at once.
                short_lives += 1
                await asyncio.sleep(backoff(short_lives, *self._pause))

    def _failed(self, problem: Exception, failures: int) -> None:
        self.last_error = self.clean(problem)
        self._become(ConnectionState.DOWN)
        if failures == 1 and (self.connects or self._wait):
            level = self.consumers.down(self)
            log.log(
                level, "%s: cannot connect, and tries again for ever: %s", self._logged_as, self.last_error
            )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: attempt %d failed\n%s", self.name, failures, trace(problem, self.secrets))

    def clean(self, problem: object) -> str:
        """Return a reason in one line, without secrets."""
        if isinstance(problem, BaseException):
            return said(problem, self.secrets)
        return one_line(redact(str(problem), self.secrets))

    async def _live(self, session: S, first: asyncio.Future[Exception | None]) -> None:
        self.session = session
        session.watch(self.tell)
        self._up = asyncio.get_running_loop().time()
        self._become(ConnectionState.UP)
        if not first.done():
            first.set_result(None)
        try:
            self.last_error = self.clean(await asyncio.shield(session.lost))
        except asyncio.CancelledError:
            self.session = None
            self._become(ConnectionState.CLOSED)
            await self._end(session)
            raise
        self.session = None
        self._become(ConnectionState.DOWN)
        level = self.consumers.down(self)
        log.log(level, "%s: the connection is lost: %s", self._logged_as, self.last_error)
        await self._end(session)

    async def _end(self, session: S) -> None:
        try:
            await call(session.close(), CLOSE_TIMEOUT)
        except Exception as exc:
            log.debug("%s: closing the connection failed: %s", self.name, self.clean(exc))
        finally:
            session.abort()
