"""Every error evbus raises, in one tree: catch :class:`EvbusError` to catch them all.

An error carries its facts as attributes and builds its sentence from them; the sentence says what
was wrong, where, and what would be right. None of them ever holds a secret.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from evbus.engine.kit.redact import one_line
from evbus.version import install_command

__all__ = [
    "AuthorizationError",
    "BusForked",
    "BusFull",
    "BusStopped",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "ContentDisallowed",
    "DeliveryError",
    "DeliveryTimeout",
    "DestinationForbidden",
    "DispatchDeadlock",
    "DispatchError",
    "DispatchTimeout",
    "DispatcherNotStarted",
    "DispatcherStopped",
    "EvbusError",
    "HandlerDoesNotExist",
    "HandlerError",
    "HandlerExists",
    "HandlerIsSync",
    "HandlerSignatureError",
    "InvalidHeader",
    "InvalidPayload",
    "InvalidRoutingKey",
    "LocalServiceError",
    "MissingExtra",
    "PayloadError",
    "PayloadTooDeep",
    "PayloadTooLarge",
    "PluginError",
    "ProfileError",
    "Rejected",
    "RemoteError",
    "RemoteServiceError",
    "RouterFrozen",
    "SerializeError",
    "ServiceCommunicationError",
    "ServiceError",
    "ServiceSignatureError",
    "ServiceTimeout",
    "SettingsError",
    "SettleTimeout",
    "Unavailable",
    "is_rejected",
    "nearest",
]


def absent(plugin: object, known: Iterable[str]) -> str:
    """Return the hint of :func:`nearest` for a plugin that is not there, and the option for a user's own."""
    hint = nearest(plugin, known)
    own = (
        ""
        if hint.startswith("; did you")
        else "; folders with plugins of your own: --plugin-dirs (plugin_dirs)"
    )
    return hint + own


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``.

    When nothing is close, the known names are listed instead (at most ten), and nothing at all is
    said when there are none. A name that is there, and is not what it should be, is not proposed.
    """
    written = str(name)
    names = sorted(set(known) - {written})
    close = difflib.get_close_matches(written, names, n=3, cutoff=cutoff)
    if close:
        # Of host, hosts is as close as vhost, and more likely meant: ends are forgotten first.
        longer = (each for each in close if each.startswith(written))
        return f"; did you mean {next(longer, close[0])!r}?"
    if not names:
        return ""
    more = ", ..." if len(names) > 10 else ""
    return f"; known: {', '.join(names[:10])}{more}"


class EvbusError(Exception):
    """The root of the tree."""


class ConfigError(EvbusError):
    """Something that a person wrote (an option, a profile, a plugin file) has to be mended."""


class SettingsError(ConfigError):
    """An option of the section ``evbus`` has a bad value."""


class ProfileError(ConfigError):
    """A profile is not usable: ``source`` (the file), ``path`` (the key in it) and ``reason``."""

    def __init__(self, reason: str, *, source: str = "", path: str = "") -> None:
        self.reason = reason
        self.source = source
        self.path = path
        # Names in a file may hold anything.
        where = ": ".join(one_line(part) for part in (source, path) if part)
        super().__init__(f"{where}: {reason}" if where else reason)


class PluginError(ConfigError):
    """A plugin file is broken: ``plugin`` (``subsystem.name``), ``file``, ``line`` and ``reason``."""

    def __init__(self, reason: str, *, plugin: str = "", file: str = "", line: int = 0) -> None:
        self.reason = reason
        self.plugin = plugin
        self.file = file
        self.line = line
        place = f"{file}:{line}" if file and line else file
        head = " ".join(part for part in (plugin, f"({place})" if place else "") if part)
        super().__init__(f"{head}: {reason}" if head else reason)


class MissingExtra(ConfigError):
    """An optional dependency is not installed: ``feature``, ``package`` and ``extra``."""

    def __init__(self, feature: str, *, package: str, extra: str) -> None:
        self.feature = feature
        self.package = package
        self.extra = extra
        super().__init__(
            f"{feature} needs the package {package}, which is not installed; "
            f"install it with: {install_command(extra)}"
        )


class PayloadError(EvbusError):
    """A body, a header or a routing key cannot travel."""


class SerializeError(PayloadError):
    """A body cannot be encoded: ``path`` leads to the offending value (``$.order.items[3]``)."""

    def __init__(
        self, reason: str, *, path: str = "$", plugin: str = "", what: str = "the event body"
    ) -> None:
        self.reason = reason
        self.path = path
        self.plugin = plugin
        by = f" as {plugin}" if plugin else ""
        super().__init__(f"{what} cannot be serialized{by}: {reason} - at {path}")


class InvalidPayload(PayloadError):
    """Bytes from outside are not what their content type says."""


class PayloadTooLarge(PayloadError):
    """A body is larger than the option ``max_body``: ``size`` and ``limit`` in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the event body has {size} bytes, more than the {limit} that the option max_body allows"
        )


class PayloadTooDeep(PayloadError):
    """A body nests containers deeper than ``limit``."""

    def __init__(self, limit: int, *, path: str = "", what: str = "the event body") -> None:
        self.limit = limit
        self.path = path
        at = f" - at {path}" if path else ""
        super().__init__(f"{what} nests more than {limit} levels deep{at}")


class ContentDisallowed(PayloadError):
    """A content type that evbus never decodes, such as pickle."""


class InvalidHeader(PayloadError):
    """A header cannot be carried: its name or value is no string or holds a forbidden character."""


class InvalidRoutingKey(PayloadError):
    """A routing key is no string, or one that the destination cannot carry."""


class BusFull(EvbusError):
    """The bus holds as much as it may: ``events``, ``size`` in bytes, and their limits."""

    def __init__(self, events: int, limit: int, size: int, size_limit: int) -> None:
        self.events = events
        self.limit = limit
        self.size = size
        self.size_limit = size_limit
        super().__init__(
            f"the bus is full: {events} events of at most {limit or 'any number'} (queue_limit), "
            f"{size} bytes of at most {size_limit or 'any number'} (queue_bytes); await put() to wait, "
            "or set full_policy to drop_oldest or drop_newest"
        )


class BusStopped(EvbusError):
    """The bus was stopped and takes no new events."""

    def __init__(self) -> None:
        super().__init__("the bus was stopped and takes no new events; start it again first")


class BusForked(EvbusError):
    """The bus was made in another process, before a fork."""

    def __init__(self) -> None:
        super().__init__(
            "this bus belongs to the parent process and does not work after a fork; "
            "make a new hub in the child process, or start the child with the method 'spawn'"
        )


class SettleTimeout(EvbusError, TimeoutError):
    """A bus had still something to do: ``left`` says what, after ``seconds``."""

    def __init__(self, seconds: float, left: list[str]) -> None:
        self.seconds = seconds
        self.left = left
        super().__init__(f"the bus did not settle within {seconds:g} s: {'; '.join(left)}")


class DeliveryError(EvbusError):
    """A destination did not take an event."""


class Rejected(DeliveryError):
    """The destination will never take this event: it goes to the dead letters at once."""


def is_rejected(problem: BaseException) -> bool:
    """Return whether a failure is :class:`Rejected`, or a group, as of a ``TaskGroup``, of nothing else."""
    parts = getattr(problem, "exceptions", None)
    if isinstance(parts, tuple) and parts:
        return all(is_rejected(part) for part in parts)
    return isinstance(problem, Rejected)


class DestinationForbidden(Rejected):
    """The address of a destination is one that evbus does not connect to."""


class Unavailable(DeliveryError):
    """The destination is down for every event: tried again for ever, and no attempt is counted.

    ``retry_after`` is the least time to wait, in seconds, when the destination named one; ``retry_within``
    the longest before a try that decides, when that is known.
    """

    def __init__(self, reason: str, *, retry_after: float = 0.0, retry_within: float = math.inf) -> None:
        self.retry_after = retry_after
        self.retry_within = retry_within
        super().__init__(reason)


class ConnectionLost(Unavailable):
    """The connection broke while the event was in flight, and the event may be what broke it.

    For a connection that the other side ended without naming a cause of its own. One that was given up for
    its silence, or that an operator closed, is plainly :class:`Unavailable`.

    A lane sends such events again, and each of them alone when the connection breaks again; the first break
    costs no attempt, and every further one that finds an event ``alone`` in flight costs it one.

    :ivar alone: nothing else was in flight.
    """

    def __init__(self, reason: str, *, alone: bool, retry_after: float = 0.0) -> None:
        self.alone = alone
        super().__init__(reason, retry_after=retry_after)


class ConnectFailed(Unavailable):
    """The first connection to a destination failed, and its profile says not to wait for it.

    The reason names the profile, the address, and what would be right. ``first_connect: wait`` in the
    profile lets the bus start all the same.
    """


class DeliveryTimeout(DeliveryError):
    """An attempt took longer than the profile's ``delivery.timeout`` (seconds); its outcome is unknown."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"no answer within {seconds:g} s (delivery.timeout)")


class HandlerError(ConfigError):
    """A handler cannot be bound: ``message`` and ``handler`` as they are named, and ``reason``."""

    def __init__(self, reason: str, *, message: str = "", handler: str = "") -> None:
        self.reason = reason
        self.message = message
        self.handler = handler
        of = f" of {message}" if message else ""
        super().__init__(f"the handler {handler}{of}: {reason}" if handler else reason)


class HandlerDoesNotExist(HandlerError):
    """There is no handler for a message."""


class HandlerIsSync(HandlerError):
    """A handler is a plain function, and handlers are asynchronous."""


class HandlerSignatureError(HandlerError):
    """It is not clear how a handler is to be called, or it cannot be called with what there is."""


class HandlerExists(HandlerError):
    """A command or query has a handler already, or an event has this one."""


class RouterFrozen(HandlerError):
    """The dispatcher is started, and its routers take no more handlers."""


class DispatchError(EvbusError):
    """A message could not be handled, for a reason that lies outside its handler."""


class DispatcherNotStarted(DispatchError):
    """The dispatcher was not started yet."""

    def __init__(self) -> None:
        super().__init__("the dispatcher is not started; call hub.dispatch.init.start() first")


class DispatcherStopped(DispatchError):
    """The dispatcher was stopped, and handles no new messages."""

    def __init__(self) -> None:
        super().__init__("the dispatcher was stopped and handles no new messages; start it again first")


class DispatchTimeout(DispatchError, TimeoutError):
    """A message was not handled in time: ``message`` as it is named, and ``seconds``."""

    def __init__(self, message: str, seconds: float) -> None:
        self.message = message
        self.seconds = seconds
        super().__init__(f"{message} was not handled within {seconds:g} s")


class DispatchDeadlock(DispatchError):
    """A handler waits for a message that cannot be handled before the handler itself has ended."""


class RemoteError(DispatchError):
    """A handler in another process failed: ``type`` is the name of its exception, ``reason`` its text."""

    def __init__(self, type: str, reason: str) -> None:  # noqa: A002 - what it is
        self.type = type
        self.reason = reason
        super().__init__(f"{type}: {reason}" if reason else type)


class ServiceError(EvbusError):
    """A call of a service has failed, for a reason that lies outside its method."""


class ServiceSignatureError(ServiceError, ConfigError):
    """An interface, a component or an implementation is declared in a way that cannot work."""


class LocalServiceError(ServiceError):
    """A service cannot be called in this process: nothing implements it here, or it is not started."""


class InvalidResult(ServiceError):
    """A method returned something else than its interface declares, or what cannot travel: names both."""


class RemoteServiceError(ServiceError):
    """A method in another process raised what is not known here.

    :ivar type: the name of the exception, ``reason`` its text.
    """

    def __init__(self, type: str, reason: str) -> None:  # noqa: A002 - what it is
        self.type = type
        self.reason = reason
        super().__init__(f"{type}: {reason}" if reason else type)


class ServiceCommunicationError(ServiceError):
    """A call did not reach the service, or its answer did not come: names component, channel and address.

    :ivar handed_over: the request may have reached the service.
    """

    def __init__(self, reason: str, *, handed_over: bool) -> None:
        self.handed_over = handed_over
        super().__init__(reason)


class ServiceTimeout(ServiceCommunicationError, TimeoutError):
    """A call took longer than its deadline; its outcome is unknown."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, handed_over=True)


class AuthorizationError(ServiceError):
    """Who calls is not known, or may not call this.

    :ivar known: who calls is known, and may not.
    """

    def __init__(self, reason: str, *, known: bool = False) -> None:
        self.known = known
        super().__init__(reason)
