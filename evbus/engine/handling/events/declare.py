"""Events and listeners as they are declared: ``@event``, ``@event_listener``, :class:`EventListener`."""

from __future__ import annotations

import inspect
import math
import sys
import unicodedata
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import FrameType, FunctionType
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import msgspec

from evbus.engine.codec.resolve import resolve_local
from evbus.engine.handling.events.shape import check_declared, fields_of
from evbus.engine.kit.topics import is_pattern, matches
from evbus.errors import HandlerSignatureError, nearest
from evbus.types import Subscription

__all__ = [
    "LISTENS",
    "MODULES",
    "SUBSCRIBED",
    "EventListener",
    "EventListenerDescriptor",
    "EventSpec",
    "ListenerSpec",
    "Retries",
    "SubscribeOptions",
    "check_options",
    "declared",
    "event",
    "event_listener",
    "listener_spec",
    "spec_of",
    "subscription_of",
]

_EVENT = "__evbus_event__"
LISTENS = "__evbus_listens__"

#: Bytes of a name, which is the routing key of its events; section 1.1 of AMQP 0-9-1 has no longer ones.
LONGEST = 255
#: What stands for any number of words in the topics of ActiveMQ, as ``#`` does in those of AMQP 0-9-1.
REST = ">"

#: The most that :meth:`Subscription.prefetch_for` takes by default.
MOST_PREFETCH = 1000
#: The largest number of deliveries that a consumer of AMQP 0-9-1 can ask for (basic.qos, a short integer).
LARGEST = 65_535

_Class = TypeVar("_Class", bound=type)
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_Event = TypeVar("_Event")

#: The classes with ``@event``, by the names of their events.
_DECLARED: dict[str, weakref.WeakSet[type]] = {}
#: The names of modules with listeners, and those listeners that somebody has subscribed, or was told of.
MODULES: set[str] = set()
SUBSCRIBED: weakref.WeakSet[Any] = weakref.WeakSet()

#: Makes the plain values of an older version those of the present one: ``(version, values)``.
Upcast = Callable[[int, dict[str, Any]], Mapping[str, Any]]


class EventSpec(msgspec.Struct, frozen=True, eq=False):
    """The declaration of an event: its name, and how it travels.

    :ivar cls: None for an event that is known by its name only.
    :ivar name: the name of its queue, topic or address.
    :ivar durable: kept while no listener is there.
    :ivar broadcast: every listener gets a copy for each process.
    :ivar version: of its fields; a message says its own in a header.
    :ivar pattern: ``name`` is a pattern, and stands for all events whose names match it.
    """

    cls: type | None
    name: str
    durable: bool
    broadcast: bool
    version: int
    upcast: Upcast | None
    pattern: bool = False


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The attempts that a listener has at an event before it is a dead letter, and the pauses in seconds.

    :ivar attempts: in all; 0 for ever.
    :ivar min: the bound of the first pause; it doubles with every failure.
    :ivar max: the largest bound. The pause is a random part of the bound (full jitter).
    """

    attempts: int = 3
    min: float = 0.1
    max: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 0 or not 0 < self.min <= self.max:
            raise ValueError(
                "attempts is 0 (for ever) or more, and min and max are seconds with 0 < min <= max"
            )


class ListenerSpec(msgspec.Struct, frozen=True):
    """The options of a listener; see :func:`event_listener`."""

    event: Any
    name: str = ""
    group: str = ""
    per_process: bool = False
    profile: str = "default"
    durable: bool | None = None
    subclasses: bool = False
    retry: Retries = Retries()
    concurrency: int = 1
    batch: int = 0
    batch_wait: float = 0.05
    prefetch: int = 0
    key: str | Callable[[Any], Any] | None = None
    timeout: float | None = None
    on_error: Callable[..., Any] | None = None
    max_deliveries: int = 0


def subscription_of(spec: ListenerSpec, name: str, event: EventSpec) -> Subscription:
    """Return the subscription of a listener called ``name`` to one of its events."""
    at_once = spec.concurrency * (spec.batch or 1)
    return Subscription(
        name=event.name,
        group=spec.group or name,
        per_process=spec.per_process or event.broadcast,
        durable=event.durable if spec.durable is None else spec.durable,
        # A default of less would let no batch be full.
        prefetch=spec.prefetch or (min(at_once, LARGEST) if spec.batch and at_once > MOST_PREFETCH else 0),
        concurrency=at_once,
    )


def gets(events: Iterable[str], name: str) -> bool:
    """Return whether a listener to ``events``, names and patterns, gets the event of a name."""
    return any(event == name or (is_pattern(event) and matches(name, event)) for event in events)


class EventListenerDescriptor(msgspec.Struct, frozen=True, eq=False):
    """A listener that an event goes to, as interceptors are told of it.

    :ivar name: of the listener.
    :ivar event: what it listens to.
    :ivar group: those of one group share the events.
    :ivar per_process: each process gets a copy of its own.
    """

    name: str
    event: EventSpec
    group: str
    per_process: bool


class EventListener(Generic[_Event]):
    """A base for listeners that are classes: write ``on(self, event)``, plain or asynchronous.

    The hub makes the object; a parameter ``hub`` of ``__init__`` gets it. A parameter ``envelope`` of ``on``
    gets the envelope that the event came in.
    """

    def on(self, event: _Event) -> Any:
        """Handle an event."""
        raise NotImplementedError(f"{type(self).__qualname__} has no on(self, event)")


def event(
    name: str = "",
    durable: bool = False,
    broadcast: bool = False,
    *,
    version: int = 1,
    upcast: Upcast | None = None,
) -> Callable[[_Class], _Class]:
    """Make a dataclass, msgspec Struct, attrs class or pydantic model an event.

    It may stand above or below ``@dataclass``. Whether all fields can travel is looked at here, as far as
    they are known, and before the first use: when a listener is subscribed, the bus starts, or one is sent.

    :param name: what its queue, topic or address is called; default: the name of the class.
    :param durable: it is kept while no listener is there.
    :param broadcast: every process gets a copy for each of its listeners.
    :param version: of its fields. A message of an older version goes through ``upcast`` first.
    :param upcast: ``upcast(version, values)`` returns the values as the present version has them.
    :raises HandlerSignatureError: the class cannot travel; names the field and its type. Or the name cannot:
        more than 255 bytes of UTF-8, a control character, or ``*``, ``#`` or ``>`` as a word between dots.
    """

    def decorate(cls: _Class) -> _Class:
        _resolve_names(cls, sys._getframe(1))
        check_declared(cls)
        if type(version) is not int or version < 1:
            raise HandlerSignatureError(f"the event {cls.__qualname__}: version is a number from 1 on")
        if upcast is not None:
            _check_upcast(cls, upcast)
        if not isinstance(name, str):
            raise HandlerSignatureError(f"the event {cls.__qualname__}: name is a text, and not {name!r}")
        what = f"the event {cls.__qualname__}"
        _check_name(name or cls.__name__, what)
        if is_pattern(name):
            raise HandlerSignatureError(
                f"{what}: the name of an event is taken as it is, and {name!r} is a pattern, to which only "
                "listeners can listen: '*', '#' and '>' are no word of it"
            )
        spec = EventSpec(cls, name or cls.__name__, durable, broadcast, version, upcast)
        setattr(cls, _EVENT, spec)
        _DECLARED.setdefault(spec.name, weakref.WeakSet()).add(cls)
        return cls

    if isinstance(name, type):
        raise HandlerSignatureError(f"write @event() above {name.__qualname__}, with parentheses")
    return decorate


def _resolve_names(cls: Any, frame: FrameType) -> None:
    """Find the classes in a function that the fields of a class name, while the function has them."""
    if isinstance(cls, type) and frame.f_locals is not frame.f_globals:
        # Its own name stands for another class until now, and its slots may make another of this one.
        resolve_local(cls, {name: value for name, value in frame.f_locals.items() if name != cls.__name__})


def _check_name(name: str, what: str) -> None:
    """Refuse a name, or a pattern, that cannot mean the same in this process and at every broker."""
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        raise HandlerSignatureError(
            f"{what}: the name {name[:40]!r}... has more than {LONGEST} bytes of UTF-8, the limit of AMQP"
        )
    # RabbitMQ finds no queue by a name with a line break, STOMP has no NUL, and UTF-8 no surrogates.
    odd = next((one for one in name if unicodedata.category(one) in ("Cc", "Cs")), "")
    if odd:
        raise HandlerSignatureError(
            f"{what}: the name {name!a} holds U+{ord(odd):04X}, and brokers do not all keep control "
            "characters and surrogates in names; leave it out"
        )
    if REST in name.split("."):
        raise HandlerSignatureError(
            f"{what}: {name!r} would be a pattern at some brokers: '>' is no word of a name; in the patterns "
            "that a listener may listen to, '*' is one word and '#' any number of them"
        )


def _check_upcast(cls: type, upcast: Any) -> None:
    try:
        inspect.signature(upcast).bind(1, {})
    except (TypeError, ValueError):
        raise HandlerSignatureError(
            f"the event {cls.__qualname__}: upcast is a function of (version, values) that returns the values"
        ) from None


def spec_of(cls: Any) -> EventSpec | None:
    """Return the declaration that ``@event`` gave a class itself, None for a class without it."""
    found = vars(cls).get(_EVENT) if isinstance(cls, type) else None
    # The slots of a dataclass make another class of the same name, which has what was set on the first.
    return found if isinstance(found, EventSpec) else None


def declared(name: str) -> type | None:
    """Return the class of this process that ``@event`` gave a name, None when there is none, or several."""
    classes = list(_DECLARED.get(name, ()))
    if len(classes) != 1:
        return None
    (cls,) = classes
    for base in cls.__bases__:
        below: list[type] = type.__subclasses__(base)
        for each in below:
            # The slots of a dataclass above ``@event`` have made another class, which has what the first has.
            if each is not cls and spec_of(each) is spec_of(cls):
                return each
    return cls


def event_listener(
    event: Any,
    name: str = "",
    group: str = "",
    per_process: bool = False,
    **options: Unpack[_ListenerOptions],
) -> Callable[[_Handler], _Handler]:
    """Make a function or a class deriving :class:`EventListener` listen to an event.

    :param event: its class, made an event by :func:`event`; or its name; or a pattern of names, in which
        ``*`` is one word between dots and ``#`` any number of them: ``order.*``.
    :param name: what the listener is called, in its queue and in errors; default: the name of the class, of
        the function, or of the file for a function ``on``.
    :param group: listeners of one group share the events; by default every listener gets all.
    :param per_process: each process gets a copy of its own.
    :param options: see :func:`listener_spec`.
    """
    if isinstance(event, FunctionType) or (isinstance(event, type) and issubclass(event, EventListener)):
        raise HandlerSignatureError(
            f"write @event_listener(Event) above {event.__qualname__}, with its event in parentheses"
        )
    check_options(options)
    spec = listener_spec(event, name, group, per_process, **options)

    def decorate(listener: _Handler) -> _Handler:
        MODULES.add(getattr(listener, "__module__", ""))
        known: list[ListenerSpec] = list(vars(listener).get(LISTENS, ()))
        setattr(listener, LISTENS, [spec, *known])
        return listener

    return decorate


class _ListenerOptions(TypedDict, total=False):
    """The options of a listener beside its event, name, group and per_process; see :func:`listener_spec`."""

    profile: str
    durable: bool | None
    subclasses: bool
    retry: Retries | Mapping[str, Any] | None
    concurrency: int
    batch: int
    batch_wait: float
    prefetch: int
    key: str | Callable[[Any], Any] | None
    timeout: float | None
    on_error: Callable[..., Any] | None
    max_deliveries: int


class SubscribeOptions(_ListenerOptions, total=False):
    """The options of a subscription, beside its event, its listener and its name."""

    group: str
    per_process: bool
    metadata: Any


OPTIONS = tuple(_ListenerOptions.__annotations__)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that a listener does not have.

    :raises HandlerSignatureError: names the first, and the one that may be meant.
    """
    for option in options:
        if option not in OPTIONS:
            known = ("name", "group", "per_process", *OPTIONS)
            raise HandlerSignatureError(f"a listener has no option {option!r}{nearest(option, known)}")


def event_of(event_type_or_name: Any, options: dict[str, Any]) -> Any:
    """Return the event of a subscription, under whichever name; those are taken out of ``options``.

    :raises HandlerSignatureError: it was told nothing, or several.
    """
    given = [event_type_or_name, *(options.pop(name, None) for name in ("event_type", "event"))]
    told = [one for one in given if one is not None]
    if len(told) != 1:
        how = "nothing" if not told else "several things"
        raise HandlerSignatureError(
            f"a listener was told {how} to listen to; give subscribe() one class of events, or one name"
        )
    return told[0]


def _check_texts(**texts: Any) -> None:
    for option, text in texts.items():
        if not isinstance(text, str):
            raise HandlerSignatureError(f"{option} of a listener is a text, and not {text!r}")


def _check_key(event: Any, key: Any) -> None:
    """Refuse a key that no event of a class has."""
    if key is None or callable(key):
        return
    if not isinstance(key, str):
        raise HandlerSignatureError(
            f"key of a listener is an attribute of the event, or a function of it, and not {key!r}"
        )
    fields = fields_of(event) if isinstance(event, type) else []
    name = key.partition(".")[0]
    if fields and name not in fields and not hasattr(event, name):
        raise HandlerSignatureError(f"key: {event.__qualname__} has no field {name!r}{nearest(name, fields)}")


def listener_spec(
    event: Any,
    name: str = "",
    group: str = "",
    per_process: bool = False,
    *,
    profile: str = "default",
    durable: bool | None = None,
    subclasses: bool = False,
    retry: Retries | Mapping[str, Any] | None = None,
    concurrency: int = 1,
    batch: int = 0,
    batch_wait: float = 0.05,
    prefetch: int = 0,
    key: str | Callable[[Any], Any] | None = None,
    timeout: float | None = None,
    on_error: Callable[..., Any] | None = None,
    max_deliveries: int = 0,
) -> ListenerSpec:
    """Return the options of a listener, checked.

    :param profile: the profile of the bus that its events come through.
    :param durable: what comes while no listener of the group is there is kept for it; default: what the event
        says, and for one that is known by its name only, that it is not.
    :param subclasses: the events that derive from this one, too.
    :param retry: how often it is tried: :class:`Retries`, or a mapping of its fields.
    :param concurrency: events handled at once, or batches; with 1 they are handled in order.
    :param batch: the listener gets a list of so many events at the most; 0: each by itself. When it fails, it
        gets each of them once more in a list of its own, from where the retries of that event begin.
    :param batch_wait: seconds that the first event of a batch waits for others.
    :param prefetch: events that may wait here to be handled; 0 takes the profile's.
    :param key: an attribute of the event, or a function of it: those with the same key are handled in order,
        whatever ``concurrency`` is.
    :param timeout: seconds that one attempt may take.
    :param on_error: ``on_error(event, exception)``, plain or asynchronous, is told of what was given up.
    :param max_deliveries: how often an event may be delivered where its broker counts that, as a process may
        die of it each time; then it is given up. 0: any number.
    :raises HandlerSignatureError: one of them is wrong.
    """
    if not isinstance(event, (str, type)):
        raise HandlerSignatureError(
            f"a listener listens to a class of events, or to the name of one, not to a {type(event).__name__}"
        )
    if isinstance(event, str):
        _check_name(event, "a listener")
    _check_texts(name=name, group=group, profile=profile)
    for option, number, least, most in (
        ("concurrency", concurrency, 1, None),
        ("batch", batch, 0, None),
        ("prefetch", prefetch, 0, LARGEST),
        ("max_deliveries", max_deliveries, 0, None),
    ):
        if type(number) is not int or number < least or (most and number > most):
            said = f"to {most}" if most else "on"
            raise HandlerSignatureError(
                f"{option} of a listener is a number from {least} {said}, and not {number!r}"
            )
    if timeout is not None and (type(timeout) not in (int, float) or not timeout > 0):
        raise HandlerSignatureError(
            f"timeout of a listener is a number of seconds above 0, or None, and not {timeout!r}"
        )
    if type(batch_wait) not in (int, float) or not 0 <= batch_wait < math.inf:
        raise HandlerSignatureError(
            f"batch_wait of a listener is a number of seconds from 0 on, and not {batch_wait!r}"
        )
    if batch and key is not None:
        raise HandlerSignatureError(
            "a listener that takes batches has no key: the events of a batch come at once, in their order"
        )
    if on_error is not None and not callable(on_error):
        raise HandlerSignatureError("on_error of a listener is a function on_error(event, exception)")
    _check_key(event, key)
    try:
        policy = retry if isinstance(retry, Retries) else msgspec.convert(dict(retry or {}), Retries)
    except (msgspec.ValidationError, ValueError, TypeError) as exc:
        raise HandlerSignatureError(
            f"retry of a listener: {exc}; write retry={{'attempts': 3, 'min': 0.1, 'max': 10}}"
        ) from None
    return ListenerSpec(
        event=event,
        name=name,
        group=group,
        per_process=per_process,
        profile=profile,
        durable=durable,
        subclasses=subclasses,
        retry=policy,
        concurrency=concurrency,
        batch=batch,
        batch_wait=batch_wait,
        prefetch=prefetch,
        key=key,
        timeout=timeout,
        on_error=on_error,
        max_deliveries=max_deliveries,
    )
