"""The links of an AMQP 1.0 connection: to an address, or from it. Sections are those of the specification."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from evbus.engine.wire.amqp1.library import cproton, proton
from evbus.engine.wire.base.session import BrokerSession
from evbus.errors import DeliveryError

__all__ = ["Link", "Outcome", "Receiver", "SendingLink", "condition_of"]

ACCEPTED, REJECTED, RELEASED, MODIFIED = (
    cproton.PN_ACCEPTED,
    cproton.PN_REJECTED,
    cproton.PN_RELEASED,
    cproton.PN_MODIFIED,
)
_NAMES = {ACCEPTED: "accepted", REJECTED: "rejected", RELEASED: "released", MODIFIED: "modified"}


class Outcome(NamedTuple):
    """The outcome of a message.

    :ivar name: accepted, rejected, released, modified; settled (without one of these); or ended, when the
        link ended before.
    :ivar condition: why, by name, when that was told; ``""`` for a link that ended with its connection.
    :ivar alone: no other message was in flight when the link ended, so that this one must be meant.
    """

    name: str
    condition: str = ""
    text: str = ""
    alone: bool = False


def condition_of(impl: Any) -> tuple[str, str]:
    """Return the name and the description of a condition, ``""`` both when there is none."""
    if not impl or not cproton.pn_condition_is_set(impl):
        return "", ""
    return cproton.pn_condition_get_name(impl) or "", cproton.pn_condition_get_description(impl) or ""


class Link:
    """A link as long as it is attached.

    :ivar ready: done when the other side has attached it too; its result is ``("", "")``, or the condition
        with which it refused.
    :ivar end: the condition with which it ended, and its description; None as long as it lives.
    """

    def __init__(self, owner: BrokerSession[Any], session: Any, link: Any, name: str) -> None:
        self.owner = owner
        self.session: Any = session
        self.name = name
        self.impl: Any = link._impl
        self._link: Any = link
        self.ready: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self.end: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} end={self.end!r}>"

    def open(
        self, *, target: str = "", source: str = "", capabilities: tuple[str, ...] = (), durable: bool = False
    ) -> None:
        """Attach it (section 2.6.3), in a session that begins with it."""
        link = self._link
        if self.end is not None:
            return
        self.session.open()
        if target:
            link.target.address = target
        if source:
            link.source.address = source
        end = link.target if target else link.source
        if durable:
            end.durability = proton.Terminus.DELIVERIES
            end.expiry_policy = proton.Terminus.EXPIRE_NEVER
        if capabilities:
            symbols = [proton.symbol(each) for each in capabilities]
            end.capabilities.put_object(proton.Array(proton.UNDESCRIBED, proton.Data.SYMBOL, *symbols))
        link.rcv_settle_mode = proton.Link.RCV_FIRST
        link.snd_settle_mode = proton.Link.SND_UNSETTLED
        link.open()

    def attached(self) -> None:
        """Take the other side's answer. One that refuses answers without a terminus, and then closes."""
        refused = (
            self._link.remote_target.type == proton.Terminus.UNSPECIFIED
            if self._link.is_sender
            else self._link.remote_source.type == proton.Terminus.UNSPECIFIED
        )
        if not refused and not self.ready.done():
            self.ready.set_result(("", ""))

    def flowed(self) -> None:
        """Credit has come."""

    def delivered(self, delivery: Any) -> None:
        """Something has happened to a message."""

    def ended(self, name: str, text: str) -> None:
        """The other side has ended it."""
        self.end = name, text
        if not self.ready.done():
            self.ready.set_result((name or "amqp:link:detach-forced", text))

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self.ended("", reason)

    def forget(self) -> None:
        """Let go of the engine's objects, as deliveries keep the link, and may be freed by any thread."""
        self.session = self.impl = self._link = None

    def leave(self) -> bool:
        """End it here; return whether the other side has yet to do so.

        Its session lives until then: RabbitMQ 3 may forget what was settled just before its end.
        """
        begun = not self.session.state & proton.Endpoint.LOCAL_UNINIT
        over = (self.session.state | self._link.state) & proton.Endpoint.REMOTE_CLOSED
        if begun:
            self._link.close()
        return begun and not over

    def release(self) -> bool:
        """Give it back to the engine of a live connection; return whether its session has yet to end."""
        state = self.session.state
        self._link.free()
        if state & proton.Endpoint.LOCAL_UNINIT:
            self.session.free()
            return False
        self.session.close()
        if state & proton.Endpoint.REMOTE_CLOSED:
            self.session.free()
            return False
        return True


class SendingLink(Link):
    """A link that sends.

    :ivar credit: messages that the other side takes at present (section 2.6.7).
    :ivar unsettled: what was sent, each with its number in the session.
    :ivar result: makes an outcome of the session of one of the link.
    """

    result: Callable[[Outcome], DeliveryError | None]

    def __init__(self, owner: BrokerSession[Any], session: Any, link: Any, name: str) -> None:
        super().__init__(owner, session, link, name)
        self.credit = 0
        self.unsettled: dict[Any, int] = {}

    def flowed(self) -> None:
        """Take the credit."""
        self.credit = cproton.pn_link_credit(self.impl)
        self.owner.wake()

    def send(self, message: bytes, number: int) -> None:
        """Give a message to the engine, under its number in the session. Needs credit."""
        delivery = cproton.pn_delivery(self.impl, number.to_bytes(8, "big"))
        cproton.pn_link_send(self.impl, message)
        cproton.pn_link_advance(self.impl)
        self.credit -= 1
        self.unsettled[delivery] = number

    def delivered(self, delivery: Any) -> None:
        """Take an outcome (section 3.4), which is final whether the other side has settled it or not yet."""
        state = cproton.pn_delivery_remote_state(delivery)
        name = _NAMES.get(state, "")
        if not name and not cproton.pn_delivery_settled(delivery):
            return
        number = self.unsettled.pop(delivery, 0)
        said = ("", "")
        if state == REJECTED:
            said = condition_of(cproton.pn_disposition_condition(cproton.pn_delivery_remote(delivery)))
        cproton.pn_delivery_settle(delivery)
        self._settle(number, Outcome(name or "settled", *said))
        self.owner.wake()

    def ended(self, name: str, text: str) -> None:
        """Tell everybody who waits for an outcome."""
        super().ended(name, text)
        waiting, self.unsettled = self.unsettled, {}
        self.credit = 0
        outcome = Outcome("ended", name, text, len(waiting) == 1)
        for number in waiting.values():
            self._settle(number, outcome)
        self.owner.wake()

    def _settle(self, number: int, outcome: Outcome) -> None:
        found = self.owner.receipts.pop(number, None)
        if found is not None:
            found[0].settle(found[1], self.result(outcome))


class Receiver(Link):
    """A link that receives.

    :ivar taker: gets each message, with its number.
    :ivar changed: called when it has ended.
    :ivar unsettled: the messages that came and are not settled, by their number.
    :ivar settled: whether any message was settled.
    """

    def __init__(self, owner: BrokerSession[Any], session: Any, link: Any, name: str) -> None:
        super().__init__(owner, session, link, name)
        self.taker: Callable[[int, bytes], None] = _nothing
        self.unsettled: dict[int, Any] = {}
        self.settled = self._paused = self._holds = False
        self.changed: Callable[[], None] = _nothing
        self._number = 0

    def pause(self, *, drain: bool) -> None:
        """Take no more messages; those that are under way are released.

        :param drain: have the other side forget the credit that it has (section 2.6.7). RabbitMQ 3 takes no
            outcome any more after that: there, what still comes is held until the link ends.
        """
        if self.end is None and not self._paused:
            self._paused = True
            self._holds = not drain
            if drain:
                cproton.pn_link_drain(self.impl, 0)
                self.owner.flush()

    def grant(self, credit: int) -> None:
        """Take so many more messages."""
        if self.end is None and not self._paused:
            cproton.pn_link_flow(self.impl, credit)
            self.owner.flush()

    def delivered(self, delivery: Any) -> None:
        """Take a message, when all of it has come."""
        if not cproton.pn_delivery_readable(delivery) or cproton.pn_delivery_partial(delivery):
            return
        _, data = cproton.pn_link_recv(self.impl, cproton.pn_delivery_pending(delivery))
        cproton.pn_link_advance(self.impl)
        if cproton.pn_delivery_aborted(delivery):
            cproton.pn_delivery_settle(delivery)
            self.grant(1)
            return
        self._number += 1
        self.unsettled[self._number] = delivery
        if self._paused:
            if not self._holds:
                self.settle(self._number, RELEASED)
            return
        self.taker(self._number, bytes(data))

    def settle(self, number: int, state: int) -> None:
        """Settle a message with an outcome (section 3.4), and give credit for another one."""
        delivery = self.unsettled.pop(number, None)
        if delivery is None or self.end is not None:
            return
        self.settled = True
        if state == MODIFIED:
            cproton.pn_disposition_set_failed(cproton.pn_delivery_local(delivery), True)
        cproton.pn_delivery_update(delivery, state)
        cproton.pn_delivery_settle(delivery)
        if self._paused:
            self.owner.flush()
        else:
            self.grant(1)

    def ended(self, name: str, text: str) -> None:
        """Forget the messages: they come again."""
        super().ended(name, text)
        self.unsettled.clear()
        self.changed()


def _nothing(*_: object) -> None:
    pass
