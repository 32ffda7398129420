"""Consume queues and topics by STOMP: what to subscribe to, and deliveries of it for ever.

Sections named here are those of the STOMP specification 1.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from evbus.engine.kit.topics import check_template, is_pattern, key_of
from evbus.engine.kit.waiting import call
from evbus.engine.wire.amqp.profile import NOT_CLASSIC, PASSING
from evbus.engine.wire.amqp.topology import STANDARD, TOPIC
from evbus.engine.wire.base.consume import BrokerConsumer
from evbus.engine.wire.base.profile import unfit
from evbus.engine.wire.stomp.connect import StompConnection
from evbus.engine.wire.stomp.frame import Frame
from evbus.engine.wire.stomp.profile import KEY, ROUTING_KEY, Profile
from evbus.engine.wire.stomp.session import (
    UNSUBSCRIBE_TIMEOUT,
    Product,
    StompSession,
    fill,
    sender_headers,
    taken_apart,
)
from evbus.errors import DeliveryError, DeliveryTimeout, ProfileError, Unavailable
from evbus.types import Delivery, Envelope, Origin, Subscription

__all__ = ["TOPICS", "VIRTUAL", "Consumer", "plan", "routing_key"]

log = logging.getLogger("evbus.egress.stomp")

#: How destinations begin that have subscriptions of their own, and those of ActiveMQ that have groups.
TOPICS = ("/topic/", "/exchange/")
VIRTUAL = "/topic/VirtualTopic."
_QUEUES = ("/queue/", "/amq/queue/")
#: How RabbitMQ and ActiveMQ are told how many deliveries may be unsettled.
_PREFETCH = ("prefetch-count", "activemq.prefetchSize")
#: Seconds in which nothing came, for a queue to be taken for quiet.
QUIET = 0.2
#: The header that names the queue behind a subscription to a topic of RabbitMQ.
_QUEUE = "x-queue-name"


class _SubscribePlan(NamedTuple):
    """The destination to subscribe to, and the headers of SUBSCRIBE.

    :ivar own: the queue of a copy for this consumer alone, where it has a name.
    :ivar lossy: what comes while the connection is lost for a moment is lost.
    """

    destination: str
    headers: dict[str, str]
    own: str = ""
    lossy: bool = False

    def as_it_is(self) -> _SubscribePlan | None:
        """Return the plan for a queue that is there with other settings; None: it has no name."""
        queue = self.headers.get(_QUEUE, "").replace("/", "%2F")
        kept = {name: value for name, value in self.headers.items() if name in _PREFETCH}
        return _SubscribePlan(f"/amq/queue/{queue}", kept) if queue else None


def plan(profile: Profile, wanted: Subscription, broker: Product, own: str = "") -> _SubscribePlan:
    """Return the plan by which a broker is asked for a subscription.

    :param own: tells the copies of several consumers apart that have one each.
    :raises ProfileError: the profile leads to no destination, or the destination cannot give it.
    """
    destination = _destination(profile, key_of(profile.routing_key, wanted.name), broker)
    prefetch = str(wanted.prefetch_for(profile.prefetch))
    headers: dict[str, str] = {}
    if is_pattern(wanted.name):
        destination = _matching(destination, broker)
    if broker is not Product.ACTIVEMQ:
        headers.update(profile.declare)
        headers[_PREFETCH[0]] = prefetch
    if broker is not Product.RABBITMQ:
        headers[_PREFETCH[1]] = prefetch
    if not destination.startswith(TOPICS):
        if wanted.per_process:
            raise ProfileError(
                f"{destination} gives each event to one consumer; a copy for every process needs a topic",
                path="destination",
            )
        if wanted.group and destination.startswith(_QUEUES):
            topic = VIRTUAL if broker is Product.ACTIVEMQ else "/topic/"
            raise ProfileError(
                f"{destination} gives each event to one consumer, and its listeners would share them; write "
                f"'destination: {topic}{KEY}'",
                path="destination",
            )
        return _SubscribePlan(destination, headers)
    if wanted.per_process:
        return _for_one(profile, destination, (wanted.group, own), headers, broker)
    group = wanted.group or profile.subscription or ""
    durable = wanted.durable and profile.durable
    if durable and not group:
        raise ProfileError(
            f"a durable subscription to {destination} needs a name: give the consumer a group, or the "
            "profile the key subscription; or write durable: false",
            path="subscription",
        )
    if not group:
        return _for_one(profile, destination, (own,), headers, broker)
    if broker is Product.ACTIVEMQ:
        if is_pattern(wanted.name):
            # A consumer of queues by a pattern takes from those of names as well: the group of a listener to
            # a pattern is one of its own, with the pattern as MQTT writes it.
            group += "::" + wanted.name.replace(".", "/").replace("*", "+")
        return _on_activemq(profile, destination, group, headers)
    return _SubscribePlan(destination, _queue(profile, _named(destination, group), headers, durable=durable))


def _matching(destination: str, broker: Product) -> str:
    """Return a destination with a pattern in it as a broker has it.

    :raises ProfileError: it cannot match it.
    """
    kind, name = destination.split("/", 2)[1:]
    if broker is Product.RABBITMQ:
        exchange = unquote(name.partition("/")[0]) if kind == "exchange" else "amq.topic"
        if kind not in ("topic", "exchange") or STANDARD.get(exchange, TOPIC) != TOPIC:
            raise ProfileError(
                f"{destination} takes names as they are, and a listener to a pattern needs a topic: write "
                f"'destination: /topic/{KEY}', or that of a topic exchange, '/exchange/events/{KEY}'",
                path="destination",
            )
        return destination
    if broker is not Product.ACTIVEMQ or kind != "topic":
        raise ProfileError(
            f"nothing is known of how this broker matches the pattern {destination}: listen to each event by "
            "its name",
            path="destination",
        )
    words = name.split(".")
    if "#" in words[:-1]:
        raise ProfileError(
            f"{destination} is a pattern that ActiveMQ does not have: '#' can be the last word only",
            path="destination",
        )
    return f"/topic/{'.'.join([*words[:-1], words[-1].replace('#', '>')])}"


def _destination(profile: Profile, name: str, broker: Product) -> str:
    template = profile.destination
    check_template(template, name, "destination")
    if unfit(name):
        raise ProfileError("the name to subscribe to holds a NUL or a lone surrogate")
    if KEY not in template:
        return template
    key = name or profile.routing_key or ""
    if not key or (key is not name and "{" in key):
        raise ProfileError(
            f"destination {template!r} does not say what to consume; write it without {KEY}",
            path="destination",
        )
    if template == KEY:
        if not key.startswith("/"):
            raise ProfileError(f"{key!r} is no destination: it begins with no '/'", path="destination")
        destination = key
    else:
        destination = fill(template, key, broker=broker)
    _check_whole(destination, broker)
    return destination


def _check_whole(destination: str, broker: Product) -> None:
    why = taken_apart(destination) if broker is Product.ACTIVEMQ else ""
    if why:
        raise ProfileError(f"the destination {destination[:100]!r} {why}", path="destination")


def _for_one(
    profile: Profile, destination: str, names: tuple[str, ...], headers: dict[str, str], broker: Product
) -> _SubscribePlan:
    """Return the plan for a copy that nobody else consumes."""
    if broker is not Product.RABBITMQ or not names[-1]:
        return _SubscribePlan(destination, headers, lossy=True)
    name = _named(destination, *names)
    return _SubscribePlan(destination, _queue(profile, name, headers, durable=False), name)


def _named(destination: str, *names: str) -> str:
    """Return the name of the queue behind a subscription, by which its consumers find it.

    It is that which the provider amqp gives it: the key under which it is bound, and the group.
    """
    topic = unquote(destination.split("/", 3 if destination.startswith("/exchange/") else 2)[-1])
    return "::".join((topic.replace("/", "."), *filter(None, names)))


def _queue(profile: Profile, name: str, headers: dict[str, str], *, durable: bool) -> dict[str, str]:
    """Return the headers by which RabbitMQ makes a queue of a name, to be kept or to be there for a while."""
    # RabbitMQ 4 makes exclusive ones for consumers of an exchange if it is not told.
    declared = {**headers, _QUEUE: name, "durable": "true", "auto-delete": "false", "exclusive": "false"}
    if durable:
        return declared
    for header in NOT_CLASSIC:
        declared.pop(header, None)
    # One that went with its last consumer would go whenever the connection is lost for a moment.
    declared.setdefault("x-expires", str(PASSING * 1000))
    return declared


def _on_activemq(profile: Profile, destination: str, group: str, headers: dict[str, str]) -> _SubscribePlan:
    if destination.startswith(VIRTUAL):
        strange = next((each for each in ".*>" if each in group), None)
        if strange is not None:
            raise ProfileError(
                f"a group of a virtual topic of ActiveMQ holds no {strange!r}, or it would get nothing: "
                f"{group}",
                path="subscription",
            )
        queue = f"/queue/Consumer.{group}.{destination[len('/topic/') :]}"
        _check_whole(queue, Product.ACTIVEMQ)
        return _SubscribePlan(queue, headers)
    if not profile.client_id:
        raise ProfileError(
            f"ActiveMQ keeps a subscription to {destination} for a client_id only, and for one consumer; "
            f"groups need a destination that begins with {VIRTUAL}",
            path="client_id",
        )
    headers["activemq.subscriptionName"] = group
    return _SubscribePlan(destination, headers)


def routing_key(profile: Profile, headers: dict[str, str], broker: Product) -> str:
    """Return the routing key that the event of a MESSAGE was sent with."""
    known = headers.get(ROUTING_KEY)
    if known is not None:
        return known
    destination = headers.get("original-destination") or headers.get("destination", "")
    if profile.destination == KEY:
        return destination
    before, _, after = profile.destination.partition(KEY)
    if destination.startswith(before) and destination.endswith(after) and KEY in profile.destination:
        found = destination[len(before) : len(destination) - len(after)]
    else:
        found = destination.split("/", 3 if destination.startswith("/exchange/") else 2)[-1]
    return unquote(found) if broker is Product.RABBITMQ else found


class _Subscribed(Origin):
    """A subscription as long as it is there.

    :param drained: see :meth:`Consumer._drained`.
    """

    def __init__(self, pause: Callable[[], None], drained: Callable[[], Awaitable[None]]) -> None:
        super().__init__(pause)
        self._drained = drained

    async def drained(self) -> None:
        """Return when nothing comes any more after a pause, as far as that can be had."""
        await self._drained()


class Consumer(BrokerConsumer[StompSession]):
    """One subscription to a destination.

    :param name: the name of the profile, which the envelopes carry.
    """

    def __init__(
        self, connection: StompConnection, profile: Profile, name: str, subscription: Subscription
    ) -> None:
        super().__init__(connection, subscription, profile.reconnect, log)
        self._profile = profile
        self._name = name
        self._subscription = self._queue = ""
        self._unsettled: dict[str, Frame] = {}
        # What came after a pause, and of these what is accepted, which the broker is not told before the end.
        self._late: set[str] = set()
        self._accepted: set[str] = set()
        self._as_it_is = False
        self._own = secrets.token_hex(8)
        self._told: set[str] = set()

    async def _subscribe(self, session: StompSession) -> bool:
        found = self._plan(session)
        self.place, self._queue = found.destination, found.own
        self._subscription = f"evbus-{session.next_number}"
        origin = _Subscribed(self._pause, self._drained)
        self._begin(session, origin)
        take = partial(self._take, session, origin, partial(self._settle, session, origin))
        answer = session.subscribe(self._subscription, found.destination, found.headers, take)
        done, _ = await asyncio.wait({answer}, timeout=self._profile.receipt_timeout)
        refusal = answer.result() if done else Unavailable("the broker does not answer")
        if refusal is None:
            self._warn(session, found)
            return True
        if not done:
            session.fail("the broker did not answer a SUBSCRIBE")
        problem = f"{self.connection.name}: cannot consume {found.destination}: {refusal}"
        if self._takes_as_it_is(found, problem):
            return False
        if isinstance(refusal, Unavailable) and "access_refused" not in problem:
            raise Unavailable(problem)
        raise DeliveryError(problem)

    async def _leave(self, *, closing: bool) -> None:
        if self._session is not None:
            # RabbitMQ takes an ACK after UNSUBSCRIBE for an error, and ends the connection. Other brokers
            # give what is unsettled to others themselves.
            delete = self._queue if closing else ""
            kept = self._unsettled if self._session.broker is Product.RABBITMQ and not delete else None
            await self._session.unsubscribe(
                self._subscription,
                delete=delete,
                unsettled=kept,
                accepted=self._accepted,
                most=self._most,
                # What came meanwhile would be handed on to nobody.
                calm=not (self.paused and self._wanted.drain),
            )
        for known in (self._unsettled, self._late, self._accepted):
            known.clear()

    def _pause(self) -> None:
        # What came over a subscription that has ended cannot be settled. So it goes on, and nothing is taken.
        self.paused = True
        if not self._wanted.drain:
            self.waiting.clear()

    @property
    def _most(self) -> int:
        """Deliveries that may be unsettled at once."""
        return self._wanted.prefetch_for(self._profile.prefetch)

    async def _drained(self) -> None:
        """Return when the broker sends nothing more: as much is unsettled as may be, or the queue is quiet.

        It goes on sending until the subscription has ended, and then gives back what it has sent: whoever
        gets that next cannot know that nobody has begun with it. A busy queue soon has filled the window, as
        what comes now stays unsettled; of a quiet one nothing is likely to be on its way.
        """
        session = self._session
        if session is not None and self._wanted.drain:
            # So that nothing is on its way for longer than it need be.
            session.prompt()
            with contextlib.suppress(DeliveryTimeout):
                await call(self._quiet(session), UNSUBSCRIBE_TIMEOUT)

    async def _quiet(self, session: StompSession) -> None:
        count = -1
        while len(self._unsettled) not in (count, self._most) and not session.lost.done():
            count = len(self._unsettled)
            await asyncio.gather(session.ask(name=self._subscription), asyncio.sleep(QUIET))

    def _plan(self, session: StompSession) -> _SubscribePlan:
        found = plan(self._profile, self._wanted, session.broker, self._own)
        as_it_is = found.as_it_is() if self._as_it_is else None
        self._as_it_is = False
        return as_it_is or found

    def _takes_as_it_is(self, found: _SubscribePlan, refusal: str) -> bool:
        """Return whether the queue is there with other settings, and is now to be taken with these."""
        queue = found.headers.get(_QUEUE, "")
        self._as_it_is = bool(queue) and "inequivalent arg" in refusal
        if self._as_it_is:
            self._tell(
                f"the queue {queue!r} is there with other settings and is used as it is; deleted when nobody "
                f"consumes it, it is made anew: {self.connection.clean(refusal)}"
            )
        return self._as_it_is

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s: %s", self.connection.name, what)

    def _warn(self, session: StompSession, found: _SubscribePlan) -> None:
        """Warn of the promises that this subscription cannot keep."""
        if found.lossy:
            where = f" at a destination {VIRTUAL}..." if session.broker is Product.ACTIVEMQ else ""
            self._tell(
                f"what is sent to {found.destination} while the connection of this consumer is lost does not "
                f"reach it; a group gets that{where}"
            )
        quorum = found.headers.get("x-queue-type") == "quorum"
        if quorum and session.version >= (4,) and "x-dead-letter-exchange" not in found.headers:
            self._tell(
                f"{found.destination} is a quorum queue without dead letters, which on RabbitMQ 4 drops what "
                "was returned 20 times; each end of a consumer counts. STOMP cannot set that limit: declare "
                "x-dead-letter-exchange, or give the queue a policy with delivery-limit -1"
            )

    def _take(
        self,
        session: StompSession,
        origin: Origin,
        settle: Callable[[str, bool | None, bool], None],
        frame: Frame,
    ) -> None:
        headers, broker = frame.headers, session.broker
        tag = headers.get("ack") or headers.get("message-id", "")
        again = tag in self._unsettled
        self._unsettled[tag] = frame
        if self.paused:
            self._late.add(tag)
        if (self.paused and not self._wanted.drain) or origin.ended:
            return
        count = headers.get("x-delivery-count", "")
        key, kept = routing_key(self._profile, headers, broker), sender_headers(headers, broker)
        self.waiting.append(
            Delivery(
                Envelope(self._name, key, frame.body, kept),
                settle,
                tag,
                redelivered=again or headers.get("redelivered") == "true",
                delivery_count=int(count) if count.isdecimal() else None,
                origin=origin,
            )
        )
        if self._arrived is not None:
            self._wake()

    def _settle(
        self, session: StompSession, origin: Origin, tag: str, accepted: bool | None, requeue: bool
    ) -> None:
        """Tell the broker ("ACK", "NACK"), if the subscription is still there."""
        if origin.ended or session.lost.done():
            return
        self.settled = True
        if accepted and tag in self._late:
            self._accepted.add(tag)
            return
        if session.broker is Product.RABBITMQ:
            self._unsettled.pop(tag, None)
            headers = "" if accepted else f"requeue:{'true' if requeue else 'false'}\n"
            session.settle(tag, headers, accepted=bool(accepted))
            return
        if requeue:
            # Their NACK means a dead letter. So it stays unacknowledged with this consumer, who gets it again
            # after those that it has; it is the broker's to give to others when the connection ends.
            frame = self._unsettled.get(tag)
            if frame is not None:
                self._take(session, origin, partial(self._settle, session, origin), frame)
            return
        self._unsettled.pop(tag, None)
        session.settle(tag, accepted=bool(accepted))
