"""The state that the three routers of a dispatcher share."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from evbus.engine.handling.binding import Binding
from evbus.engine.handling.dispatch.publish import Publish
from evbus.engine.handling.frame import Invocation
from evbus.engine.handling.key_lock import KeyLock
from evbus.engine.handling.providers import Injector
from evbus.engine.kit.failure import about
from evbus.engine.kit.redact import one_line, problem_text
from evbus.errors import DispatcherNotStarted, DispatchError, DispatcherStopped, InvalidHeader
from evbus.types import Envelope

__all__ = [
    "HOLDER",
    "Around",
    "Core",
    "DispatcherState",
]

log = logging.getLogger("evbus.dispatch")

#: Who uses what was made for handlers.
HOLDER = "dispatcher"

#: Interceptors around a handler: called with the envelope, and with what handles it.
Around = Callable[[Envelope, Callable[[Envelope], Awaitable[Any]]], Awaitable[Any]]


class DispatcherState(enum.Enum):
    """The states of a dispatcher."""

    NEW = "new"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class _HandlerFailure(NamedTuple):
    """A handler that failed while nobody waited for it.

    :ivar router: events, commands or queries.
    :ivar handler: its name.
    """

    exception: BaseException
    router: str
    handler: str
    message: Any
    key: Any


class Core:
    """State, injected objects, interceptors and failures.

    :ivar frozen: no handler may be bound any more.
    :ivar send: interceptors that run when a message is handed over; they may set headers or refuse it.
    :ivar around: interceptors around each handler.
    :ivar on_failure: is told of every handler that failed while nobody waited for it.
    :ivar publish: puts an event on the bus.
    :ivar emit: sends the events that a handler leaves behind.
    """

    def __init__(self, the_hub: Any = None) -> None:
        self.state = DispatcherState.NEW
        self.frozen = False
        self.the_hub = the_hub
        self.injector = Injector()
        self.send: Callable[[Envelope], None] | None = None
        self.around: Around | None = None
        self.on_failure: Callable[[_HandlerFailure], None] | None = None
        self.emit: Callable[[list[Any], Any], None]
        self.publish: Publish = _no_bus
        self.on_free: Callable[[], None] = _nothing
        self.undelivered: Counter[str] = Counter()
        #: The router of each kind of message that came without saying which.
        self.routes: dict[Any, Any] = {}
        #: Handlers that get one message at a time, whatever router it comes from.
        self.alone: dict[Any, KeyLock] = {}

    def refuse(self, above: Invocation | None) -> None:
        """Refuse a message while the dispatcher does not run; handlers may go on sending while it stops."""
        if self.state is DispatcherState.STOPPING and above is not None:
            return
        raise DispatcherNotStarted if self.state is DispatcherState.NEW else DispatcherStopped

    def refuse_unless_running(self) -> None:
        """Refuse what comes from outside unless the dispatcher runs."""
        if self.state is not DispatcherState.RUNNING:
            self.refuse(None)

    def freed(self) -> None:
        """Be told that a router has nothing waiting."""
        self.on_free()

    def envelope(self, name: str, headers: Mapping[str, str] | None, *, sends: bool = True) -> Envelope:
        """Return the envelope of a message, for the interceptors: its body is in the message itself.

        :param sends: :attr:`send` runs here, and not where the message leaves the process.
        :raises InvalidHeader: headers are no strings.
        """
        if headers:
            _check(headers)
        envelope = Envelope("", name, b"", dict(headers or {}))
        if sends and self.send is not None:
            self.send(envelope)
        return envelope

    def report(
        self, router: str, binding: Binding, message: Any, frame: Invocation, problem: BaseException
    ) -> bool:
        """Log a failure that nobody waits for, and tell :attr:`on_failure`.

        :returns: whether a stop gave the message up, which is told of all of them together in the end.
        """
        stopped = isinstance(problem, DispatcherStopped)
        stopped = stopped or (
            isinstance(problem, asyncio.CancelledError) and self.state is DispatcherState.STOPPED
        )
        if not stopped:
            reason = problem_text(problem)
            log.error(
                "%s: the handler %s of %s failed: %s%s",
                router,
                binding.name,
                binding.message_name,
                reason,
                about(problem, reason),
                exc_info=problem if log.isEnabledFor(logging.DEBUG) else None,
            )
        if self.on_failure is not None:
            try:
                self.on_failure(_HandlerFailure(problem, router, binding.name, message, frame.key))
            except Exception:
                log.exception("what is told of failed handlers failed itself")
        return stopped


def _check(headers: Any) -> None:
    if not isinstance(headers, Mapping):
        raise InvalidHeader(f"headers are a mapping of strings to strings, not {type(headers).__name__}")
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise InvalidHeader(
                f"headers are a mapping of strings to strings; {one_line(repr(name))} is a "
                f"{type(name).__name__} with a {type(value).__name__}"
            )


def _nothing() -> None:
    pass


async def _no_bus(profile: str, event: Any) -> None:
    raise DispatchError(f"there is no bus to publish to (profile {profile!r}); use the dispatcher of a hub")
