"""A subscription is restored whenever it has ended, and what goes wrong with it is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from evbus.engine.wire.base import consume
from evbus.engine.wire.base.consume import BrokerConsumer
from evbus.engine.wire.base.profile import Pause
from evbus.engine.wire.base.supervisor import Consumers
from evbus.errors import ConnectFailed, DeliveryError, ProfileError, Unavailable
from evbus.types import Delivery, Envelope, Origin, Subscription

log = logging.getLogger("evbus.test")


class _Session:
    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class _Connection:
    """A connection whose sessions a test makes and loses; closed after ``lives`` of them."""

    name = "here"

    def __init__(self, lives: int) -> None:
        self.consumers = Consumers()
        self.lives = lives

    async def live(self) -> Any:
        self.lives -= 1
        return _Session() if self.lives >= 0 else None

    def clean(self, problem: object) -> str:
        return str(problem)


class _Consumer(BrokerConsumer[Any]):
    """Does in each session what its script says: nothing, settle, deliver, or raise an error."""

    def __init__(self, script: list[Any]) -> None:
        wanted = Subscription(name="orders", on_ready=lambda: self.events.append("ready"))
        super().__init__(_Connection(len(script)), wanted, Pause(min=0.001, max=0.002), log)  # type: ignore[arg-type]
        self.place = "orders"
        self.script = script
        self.events: list[str] = []

    async def _subscribe(self, session: Any) -> bool:
        step = self.script.pop(0)
        origin = Origin()
        self._begin(session, origin)
        if isinstance(step, Exception):
            raise step
        asyncio.get_running_loop().call_soon(self._do, session, origin, step)
        return True

    def _do(self, session: Any, origin: Origin, step: str) -> None:
        if step == "deliver":
            self.waiting.append(Delivery(Envelope("p", "orders"), None, 1, origin=origin))
            self._wake()
        else:
            self.settled = step == "settle"
            session.lost.set_result("broke")

    async def _leave(self, *, closing: bool) -> None:
        self.events.append("closed" if closing else "left")


def consumed(script: list[Any]) -> _Consumer:
    async def main() -> _Consumer:
        async with _Consumer(script) as consumer:
            while await asyncio.wait_for(consumer.arrival(), 10):
                consumer.events.append(consumer.waiting.popleft().envelope.routing_key)
                consumer.paused = True
                assert consumer._session is not None
                consumer._session.lost.set_result("the end")
        assert not consumer.connection.consumers
        return consumer

    return asyncio.run(main())


def told(caplog: pytest.LogCaptureFixture, what: str) -> int:
    return sum(what in record.getMessage() for record in caplog.records)


def test_it_is_subscribed_again_and_left_whenever_its_session_is_lost() -> None:
    found = consumed(["nothing", "nothing", "deliver"])
    assert found.events == ["ready", "left", "ready", "left", "ready", "orders", "closed"]
    assert found.origin is None


def test_three_short_lives_with_nothing_settled_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    consumed(["nothing"] * 2)
    assert not told(caplog, "breaks again and again before anything of orders")
    consumed(["nothing"] * 5)
    assert told(caplog, "breaks again and again before anything of orders") == 1


def test_what_was_settled_or_lived_begins_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumed(["nothing", "nothing", "settle", "nothing", "nothing"])
    assert not told(caplog, "again and again")
    consumed(["nothing", "nothing", "settle", "nothing", "nothing", "nothing"])
    assert told(caplog, "again and again") == 1
    monkeypatch.setattr(consume, "SHORT", 0.0)
    caplog.clear()
    consumed(["nothing"] * 5)
    assert not told(caplog, "again and again")


def test_a_first_refusal_is_raised_and_a_later_one_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectFailed, match="no such queue"):
        consumed([DeliveryError("no such queue"), "deliver"])
    with pytest.raises(ProfileError, match="here: a topic"):
        consumed([ProfileError("a topic", path="destination"), "deliver"])
    scripts: list[list[Any]] = [
        [Unavailable("busy"), Unavailable("busy"), "deliver"],
        ["nothing", DeliveryError("gone"), "deliver"],
    ]
    for script in scripts:
        assert consumed(script).events[-2:] == ["orders", "closed"]
    assert told(caplog, "busy; tries again for ever") == told(caplog, "gone; tries again for ever") == 1
    assert told(caplog, "here: consuming from orders again") == 2
