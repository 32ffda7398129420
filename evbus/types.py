"""The plain classes that rooms share. They are imported absolutely and know no hub."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from evbus.engine.kit.units import Bytes, Seconds
from evbus.errors import DeliveryError

__all__ = [
    "CONTENT_TYPE",
    "Bytes",
    "Channel",
    "Delivery",
    "Envelope",
    "Event",
    "Host",
    "Native",
    "NativeHeaders",
    "Origin",
    "OwnHeaders",
    "Seconds",
    "SharedHeaders",
    "SharedNativeHeaders",
    "StandingHeaders",
    "Subscription",
    "Transport",
    "ack_all",
    "own_headers",
    "too_often",
]

#: The header that names the encoding of a body.
CONTENT_TYPE = "content-type"


class SharedHeaders(dict[str, str]):
    """Headers that many envelopes share, and that therefore cannot be changed.

    An event without headers of its own costs no dictionary; writing to the shared one would change
    every other event, so it raises ``TypeError``. ``headers.copy()`` gives a copy to write to.
    """

    __slots__ = ()

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("these headers are shared between events; copy them first: headers.copy()")

    __setitem__ = __delitem__ = _refuse
    __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (SharedHeaders, (dict(self),))


class OwnHeaders(SharedHeaders):
    """Shared headers of events that were encoded in this process, and not changed since."""

    __slots__ = ()


class StandingHeaders(SharedHeaders):
    """Shared headers that are told apart by their identity: all events of one kind are put with the same."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


class Native(NamedTuple):
    """The value of a header as it came, where that was no text.

    :ivar text: the header's text, which stands for the value; any other text is another value.
    :ivar form: the protocol in whose encoding ``data`` is: ``amqp`` (0-9-1) or ``amqp1``.
    :ivar data: the value with its type, encoded.
    """

    text: str
    form: str
    data: bytes


class NativeHeaders(dict[str, str]):
    """Headers that know which of them were no text where they came from.

    A destination whose protocol has types sends such a value as it came, while the header's text is what was
    made of it. ``headers.copy()`` keeps that; ``dict(headers)`` gives texts alone.

    :ivar native: the values as they came, by the header's name.
    """

    __slots__ = ("native",)

    def __init__(self, headers: Mapping[str, str], native: Mapping[str, Native]) -> None:
        super().__init__(headers)
        self.native = native

    def copy(self) -> NativeHeaders:
        """Return headers of the same values."""
        return NativeHeaders(self, self.native)


class SharedNativeHeaders(SharedHeaders):
    """:class:`NativeHeaders` that many envelopes share."""

    __slots__ = ("native",)

    def __init__(self, headers: Mapping[str, str], native: Mapping[str, Native]) -> None:
        super().__init__(headers)
        self.native = native

    def copy(self) -> NativeHeaders:
        """Return headers of the same values, to write to."""
        return NativeHeaders(self, self.native)

    def __reduce__(self) -> tuple[Any, ...]:
        return (SharedNativeHeaders, (dict(self), self.native))


# No cycles can run through an envelope, so the collector need not look at it (gc=False): with
# 100,000 of them queued that is 16 bytes each and no pause.
class Envelope(msgspec.Struct, gc=False):
    """A message on its way: what it is called, what is said about it, and what it says.

    :ivar profile: the name that the profiles' patterns are matched against.
    :ivar routing_key: the key handed to the destination, ``""`` when none was given.
    :ivar body: the encoded body; its encoding is named by the header ``content-type``.
    :ivar headers: string to string. Shared and read-only unless the event has headers of its own.
    :ivar accepted_at: when the bus accepted it, in seconds of ``time.monotonic()``.
    """

    profile: str
    routing_key: str = ""
    body: bytes = b""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    accepted_at: float = 0.0

    def replace(
        self,
        *,
        routing_key: str | None = None,
        profile: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Envelope:
        """Return a copy with another routing key, profile or headers, which are copied."""
        return Envelope(
            self.profile if profile is None else profile,
            self.routing_key if routing_key is None else routing_key,
            self.body,
            self.headers if headers is None else own_headers(headers),
            self.accepted_at,
        )


def own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of headers to write to, which knows as much of their types as they do."""
    if isinstance(headers, (NativeHeaders, SharedNativeHeaders)):
        return headers.copy()
    return dict(headers)


#: The name that applications written for pop-evbus know the class by.
Event = Envelope


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer's request for events of a message system.

    :ivar name: the name of the event, which is its queue, topic or address; ``""`` consumes the queue that
        the profile names.
    :ivar group: consumers of one group share the events; every group has its copy.
    :ivar per_process: this process gets a copy of its own, for as long as it lives.
    :ivar durable: what arrives while nobody consumes is kept. Copies of a process are never durable.
    :ivar prefetch: deliveries that may be unsettled at once; 0 takes the profile's, or what
        :meth:`prefetch_for` makes of ``concurrency``.
    :ivar concurrency: how many the consumer works on at once; 0 when that is not known.
    :ivar drain: a pause hands on what was delivered until the message system knew of it, and gives nothing
        back.
    :ivar on_ready: called when the consumer gets what is sent from then on; again whenever it is back.
    """

    name: str = ""
    group: str = ""
    per_process: bool = False
    durable: bool = True
    prefetch: int = 0
    concurrency: int = 0
    drain: bool = False
    on_ready: Callable[[], None] | None = None

    def prefetch_for(self, profile: int | None) -> int:
        """Return the prefetch, deliveries unsettled at once: asked for, else of the profile, else derived.

        A consumer that takes many more than it works on keeps them from others, and holds them long: the
        default is twice its concurrency, from 10 to 1,000; 100 when that is not known.

        :param profile: what the profile says, None when it says nothing.
        """
        if self.prefetch or profile:
            return self.prefetch or profile or 0
        return min(max(10, 2 * self.concurrency), 1000) if self.concurrency else 100

    def ready(self) -> None:
        """Tell who asked for it that the consumer is there."""
        if self.on_ready is not None:
            self.on_ready()


class Origin:
    """The channel, subscription or link that deliveries came over, and can be settled over alone.

    When it ends, the message system delivers what is unsettled again, to this consumer or another. Whoever
    holds deliveries that nobody has begun with drops them then (:meth:`Delivery.drop`), or they would be
    handled twice.

    :param pause: what :meth:`pause` does; default: nothing.
    :ivar ended: why it is gone, ``""`` while it is there.
    """

    def __init__(self, pause: Callable[[], None] | None = None) -> None:
        self.ended = ""
        self._pause = pause
        self._watchers: list[Callable[[Origin], None]] = []

    def watch(self, on_end: Callable[[Origin], None]) -> None:
        """Call ``on_end`` with this origin when it ends; at once when it has ended."""
        if self.ended:
            on_end(self)
        elif on_end not in self._watchers:
            self._watchers.append(on_end)

    def pause(self) -> None:
        """Take nothing more over it, and give back what nobody has taken yet.

        For the end of its consumer: what was taken can be settled still, and nothing comes in its place. Does
        nothing where that cannot be had.
        """
        if self._pause is not None:
            self._pause()

    async def drained(self) -> None:
        """Return when nothing comes any more after a pause; at once where that cannot be known."""

    def end(self, reason: str) -> None:
        """Note that it is gone, and tell who watches it; only the first time counts."""
        if not self.ended:
            self.ended = reason or "it ended"
            watchers, self._watchers = self._watchers, []
            for on_end in watchers:
                on_end(self)


# The collector need not look at it either: what settles a delivery keeps its tag, and not the delivery.
class Delivery(msgspec.Struct, eq=False, gc=False):
    """A message that came in, to be settled exactly once: :meth:`ack`, :meth:`reject` or :meth:`give_back`.

    These are plain functions for the consumer's event loop and never fail: when the connection over which it
    came is lost, the message system delivers it again, to this consumer or another. Settling twice does
    nothing.

    :ivar envelope: the message; its ``profile`` is the name of the profile that it came through.
    :ivar redelivered: whether it was, or may have been, delivered before.
    :ivar delivery_count: how often it was delivered before, None when the message system does not count.
    :ivar origin: what it came over, None where a delivery can be settled for as long as the process lives.
    """

    envelope: Envelope
    #: ``settle(tag, accepted, requeue)`` tells the message system. What is given back is neither accepted nor
    #: refused: ``settle(tag, None, True)``, which is a requeue for who knows no difference.
    _settle: Callable[[Any, Any, bool], None] | None
    _tag: Any
    redelivered: bool = False
    delivery_count: int | None = None
    origin: Origin | None = None

    def __repr__(self) -> str:
        state = "settled" if self._settle is None else "unsettled"
        return f"<Delivery {self._tag} {self.envelope.routing_key!r} {state}>"

    @property
    def settled(self) -> bool:
        """Whether it was acknowledged or rejected."""
        return self._settle is None

    @property
    def gone(self) -> bool:
        """Whether what it came over has ended: it cannot be settled any more, and comes again."""
        return self.origin is not None and bool(self.origin.ended)

    def drop(self) -> None:
        """Forget it without a word to the message system, which delivers it again by itself."""
        self._settle = None

    def ack(self) -> None:
        """The message was handled: it is not delivered again."""
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(self._tag, True, False)

    def reject(self, *, requeue: bool = False) -> None:
        """The message was not handled: deliver it again with ``requeue``, else give it up.

        Either is a failed delivery, and counts where the message system counts. What was given up goes
        where it sends dead letters, if it was told where.
        """
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(self._tag, False, requeue)

    def give_back(self) -> None:
        """Nobody has begun with the message, or who did is about to end: deliver it again.

        That is no failed delivery, and does not count where the message system can tell the two apart;
        elsewhere it is ``reject(requeue=True)``.
        """
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(self._tag, None, True)


_SETTLE, _TAG = operator.attrgetter("_settle"), operator.attrgetter("_tag")


def ack_all(deliveries: Sequence[Delivery]) -> None:
    """Acknowledge deliveries in their order, those of one source together if it has ``accept(tags)``."""
    if len(deliveries) == 1:
        deliveries[0].ack()
        return
    settles = set(map(_SETTLE, deliveries))
    accept = getattr(settles.pop(), "accept", None) if len(settles) == 1 else None
    if accept is None:
        for delivery in deliveries:
            delivery.ack()
        return
    for delivery in deliveries:
        delivery._settle = None
    accept(list(map(_TAG, deliveries)))


def too_often(delivery: Delivery, most: int) -> DeliveryError | None:
    """Return the error for a delivery that came ``most`` times before, None when it is to be handled.

    What is handled without ending its process is settled. Where the message system does not count, nothing
    ever comes too often.
    """
    count = delivery.delivery_count
    if count is None or count < most:
        return None
    times = "once" if count == 1 else f"{count} times"
    return DeliveryError(
        f"it was delivered {times} before and never settled: its handling may have ended the process "
        f"(max_deliveries: {most})"
    )


class Host(NamedTuple):
    """One host of a profile.

    :ivar host: with its port, if it has one.
    :ivar protocol: ``amqp``, ``amqps``, ``amqp1``, ``stomp``, ``stomps``, ``https``, ...
    :ivar version: of the protocol.
    :ivar pathname: the virtual host.
    :ivar login: ``userPassword``, ``X509``, or nothing.
    """

    host: str
    protocol: str
    version: str = ""
    pathname: str = ""
    login: str = ""
    description: str = ""


class Channel(NamedTuple):
    """An address, and what AsyncAPI's bindings of its protocol say about it.

    :ivar address: None where there is none, or where it is a secret.
    :ivar kind: what it is: ``queue``, ``exchange``, ``topic``, ``address``, ``events``, ``file``, ...
    :ivar binding: the name of the protocol's bindings.
    :ivar channel: its channel binding, ``operation`` that of the operation.
    :ivar extra: what the protocol's bindings have no place for.
    """

    address: str | None
    kind: str
    binding: str = ""
    channel: dict[str, Any] | None = None
    operation: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


class Transport(NamedTuple):
    """What a message system does with a profile, as the function ``describe`` of its plugin says it.

    :ivar hosts: where it is.
    :ivar sent: the channel that events go to, or what returns that of one by its routing key, and raises an
        EvbusError if there is none. Default: they go by their names.
    :ivar received: returns the channel that a subscription consumes; raises ProfileError if there is none.
    :ivar topics: consumers may ask for a pattern of names.
    :ivar groups: consumers of a group share the events, and every group gets them all.
    :ivar copies: each process may get a copy of its own.
    :ivar durable: events outlive who sent them, and wait for their consumers.
    :ivar dead_letters: it keeps what is rejected, where it is told to.
    :ivar delays: it holds events back for a time.
    :ivar largest_body: in bytes; None where it is not known.
    :ivar headers: they travel along.
    """

    hosts: list[Host]
    sent: Channel | Callable[[str], Channel] | None = None
    received: Callable[[Subscription], Channel] | None = None
    topics: bool = False
    groups: bool = False
    copies: bool = False
    durable: bool = False
    dead_letters: bool = False
    delays: bool = False
    largest_body: int | None = None
    headers: bool = True
