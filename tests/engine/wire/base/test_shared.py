"""One connection for all who use a profile, from the first to the last."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from evbus.engine.core.observe import Observer, Observers
from evbus.engine.kit.waiting import call
from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.profile import BrokerProfile
from evbus.engine.wire.base.shared import Shared, _ConnectionKey, key_of
from evbus.engine.wire.base.supervisor import Connection, ConnectionState
from evbus.errors import ConnectFailed, Unavailable
from tests.engine.wire.base.test_supervisor import Session, Transport, connection, never, reach, turns

WAIT = 20.0


class Settings(msgspec.Struct):
    password: str = ""


def run(main: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        await asyncio.wait_for(main, WAIT)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


def key(profile: str = "orders") -> _ConnectionKey:
    return key_of("amqp", "amqp", profile, Settings())


def maker(transport: Transport, made: list[Any], **options: Any) -> Callable[[], Connection[Session]]:
    def make() -> Connection[Session]:
        made.append(connection(transport, **options))
        return made[-1]

    return make


async def test_many_users_share_one_connection_and_the_last_one_closes_it() -> None:
    shared, made = Shared(), []
    make = maker(Transport(), made)
    users = await asyncio.gather(*(shared.open(key(), make) for _ in range(20)))
    users.append(await shared.open(key(), make))
    assert len(made) == 1
    assert set(map(id, users)) == {id(made[0])}
    for user in users[:-1]:
        await shared.close(user)
        assert made[0].state is ConnectionState.UP
    await shared.close(users[-1])
    assert made[0].state is ConnectionState.CLOSED
    assert shared.snapshot() == {}


async def test_observers_are_told_when_a_connection_is_there_and_why_it_is_not() -> None:
    class Log(Observer):
        def connected(self, name: str) -> None:
            told.append((name, "up"))

        def disconnected(self, name: str, reason: str) -> None:
            told.append((name, reason))

    told: list[Any] = []
    observers, transport = Observers(), Transport()
    observers.add(Log())
    shared, made = Shared(observers.connection), list[Any]()
    user = await shared.open(key(), maker(transport, made))
    (await reach(user, 1)).lost.set_result("the broker went away")
    await reach(user, 2)
    await shared.close(user)
    assert told == [
        ("amqp.orders", "up"),
        ("amqp.orders", "the broker went away"),
        ("amqp.orders", "up"),
        ("amqp.orders", ""),
    ]


async def test_profiles_have_connections_of_their_own() -> None:
    shared, made = Shared(), []
    make = maker(Transport(), made)
    one, two = await shared.open(key("a"), make), await shared.open(key("b"), make)
    assert one is not two
    assert {name: state["state"] for name, state in shared.snapshot().items()} == {
        "amqp.a": "up",
        "amqp.b": "up",
    }
    await shared.close(one)
    assert two.state is ConnectionState.UP
    await shared.close(two)


async def test_a_failure_to_open_is_told_to_all_who_wait_and_remembered_by_nobody() -> None:
    shared, made = Shared(), []

    async def down() -> None:
        await turns(3)
        raise OSError("down")

    make = maker(Transport(down), made)
    outcomes = await asyncio.gather(*(shared.open(key(), make) for _ in range(5)), return_exceptions=True)
    assert len(made) == 1
    assert [str(outcome) for outcome in outcomes] == ["amqp profile 'orders': down"] * 5
    assert all(isinstance(outcome, ConnectFailed) for outcome in outcomes)
    assert shared.snapshot() == {}
    again = await shared.open(key(), make)
    assert again is made[1]
    await shared.close(again)


async def test_a_failure_to_make_it_leaves_nothing() -> None:
    def make() -> Connection[Session]:
        raise ValueError("no such file")

    shared = Shared()
    with pytest.raises(ValueError, match="no such file"):
        await shared.open(key(), make)
    assert shared.snapshot() == {}


async def test_one_that_is_cancelled_takes_nobody_with_it() -> None:
    shared, made, gate = Shared(), [], asyncio.Event()
    make = maker(Transport(gate.wait), made)
    opening = [asyncio.ensure_future(shared.open(key(), make)) for _ in range(3)]
    await turns(3)
    opening[0].cancel()
    await asyncio.wait({opening[0]})
    gate.set()
    users = [await opening[1], await opening[2]]
    assert made[0].state is ConnectionState.UP
    for user in users:
        await shared.close(user)
    assert made[0].state is ConnectionState.CLOSED


async def test_the_opening_ends_with_the_last_who_waits_for_it() -> None:
    shared, made = Shared(), []
    make = maker(Transport(never), made)
    opening = [asyncio.ensure_future(shared.open(key(), make)) for _ in range(2)]
    await turns(3)
    for task in opening:
        task.cancel()
    await asyncio.wait(opening)
    assert all(task.cancelled() for task in opening)
    assert made[0].state is ConnectionState.CLOSED
    assert shared.snapshot() == {}


async def test_it_can_be_opened_again_after_and_while_it_closes() -> None:
    shared, made = Shared(), []
    make = maker(Transport(), made)
    first = await shared.open(key(), make)
    closing = asyncio.ensure_future(shared.close(first))
    await turns(1)
    second = await shared.open(key(), make)
    await closing
    assert first.state is ConnectionState.CLOSED
    assert second.state is ConnectionState.UP
    await shared.close(first)  # given up already: nothing happens to the second
    assert second.state is ConnectionState.UP
    await shared.close(second)


def test_loops_in_turn_have_connections_of_their_own() -> None:
    shared, made = Shared(), []

    async def main() -> None:
        await shared.close(await shared.open(key(), maker(Transport(), made)))

    async def forgets() -> None:
        await shared.open(key(), maker(Transport(), made))

    for one in (main, main, forgets, main):
        asyncio.run(one())
        gc.collect()
    assert len(made) == 4


async def test_other_settings_provider_or_transport_mean_another_connection_and_the_key_holds_no_secret() -> (
    None
):
    keys = [
        key_of("amqp", "amqp", "orders", Settings("hunter22")),
        key_of("amqp", "amqp", "orders", Settings("hunter23")),
        key_of("amqp", "rabbitmq", "orders", Settings("hunter22")),
        key_of("stomp", "amqp", "orders", Settings("hunter22")),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == key_of("amqp", "amqp", "orders", Settings("hunter22"))
    assert "hunter" not in repr(keys)


async def test_lanes_and_consumers_of_a_profile_have_a_connection_each_and_know_of_each_other(
    caplog: Any,
) -> None:
    caplog.set_level("WARNING", "evbus.connection")

    shared, made = Shared(), []
    make = maker(transport := Transport(), made)
    receiving = key()._replace(role="consumers")
    lanes, consumers = await shared.open(key(), make), await shared.open(receiving, make)
    other = await shared.open(key("bills"), make)
    assert lanes is not consumers
    assert lanes.consumers is consumers.consumers is not other.consumers
    assert sorted(shared.snapshot()) == ["amqp.bills", "amqp.orders", "amqp.orders.consumers"]
    transport.sessions[1].lost.set_result("reset")
    while consumers.connects < 2:
        await consumers.changed()
    for user in (lanes, consumers, other):
        await shared.close(user)
    assert not lanes.consumers.connections
    assert "amqp profile 'orders' (consumers): the connection is lost: reset" in caplog.text


async def test_a_delivery_that_waits_for_the_opening_is_told_at_its_deadline_that_it_is_under_way() -> None:
    shared, made = Shared(), []
    with pytest.raises(Unavailable, match="not connected: the first attempt is under way"):
        await call(shared.open(key(), maker(Transport(never), made)), 0.001)
    assert made[0].state is ConnectionState.CLOSED
    assert shared.snapshot() == {}


class Profile(BrokerProfile, frozen=True, kw_only=True):
    """Settings of which it can be seen where they lead to."""

    SCHEMES = ("amqp", "amqps")
    PORTS = (5672, 5671)


async def test_lanes_wait_for_the_consumers_of_all_profiles_of_their_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", WAIT)

    def place(name: str, url: str) -> _ConnectionKey:
        return key_of("amqp", "amqp", name, Profile(url=url))

    shared = Shared()
    sending, receiving = place("out", "amqp://a:b@here:1/"), place("in", "amqp://c:d@here:1/")
    others = [place("in", f"amqp://c:d@{where}") for where in ("there:1", "here:2", "here:1/vhost")]
    there = shared.expect(receiving, "consumer")
    lanes = await shared.open(sending, maker(Transport(), []))
    distant = [await shared.open(one, maker(Transport(), [])) for one in others]
    found = lanes.ready()
    assert found is not None
    assert [one.ready() for one in distant] == [None] * 3
    waiting = asyncio.ensure_future(found[1])
    await turns(3)
    assert not waiting.done()
    there()
    await waiting
    assert lanes.ready() is None
    there()
    for one in (lanes, *distant):
        await shared.close(one)


async def test_a_profile_s_live_session_is_found_by_its_key() -> None:
    shared = Shared()
    assert shared.session(key()) is None
    user = await shared.open(key()._replace(role="consumers"), maker(Transport(), []))
    assert shared.session(key()) is user.session
    assert shared.session(key("bills")) is None
    await shared.close(user)
    assert shared.session(key()) is None
