"""What a connection does when its transport fails, hangs, blocks or goes away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from evbus.engine.kit.waiting import call
from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.supervisor import Connection, ConnectionState, Consumers
from evbus.errors import ConnectFailed, Unavailable
from tests.evbus.rig import WAIT, turns

SECRET = "hunter22"


class Session:
    """What a transport returns; a test says when it is lost."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.blocked = ""
        self.ended: list[str] = []
        self.changed: Callable[[], None] = lambda: None

    def watch(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def block(self, why: str) -> None:
        self.blocked = why
        self.changed()

    async def close(self) -> None:
        self.ended.append("closed")

    def abort(self) -> None:
        self.ended.append("aborted")


class Transport:
    """Dials as its plan says: an error raised, or a function awaited; afterwards a session each time.

    :ivar attempts: the number that each attempt was given.
    """

    def __init__(self, *plan: Any) -> None:
        self.plan = list(plan)
        self.attempts: list[int] = []
        self.sessions: list[Session] = []

    async def dial(self, attempt: int) -> Session:
        self.attempts.append(attempt)
        what = self.plan.pop(0) if self.plan else None
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            await what()
        self.sessions.append(Session())
        return self.sessions[-1]


def connection(
    transport: Transport, name: str = "amqp profile 'orders'", **options: Any
) -> Connection[Session]:
    options = {"pause": (1e-9, 1e-9), "secrets": frozenset({SECRET}), **options}
    return Connection(name, transport.dial, **options)


@contextlib.asynccontextmanager
async def opened(transport: Transport, **options: Any) -> AsyncIterator[Connection[Session]]:
    """Yield an open connection, and close it in the end."""
    made = connection(transport, **options)
    await made.open()
    yield made
    await made.close()


async def reach(made: Connection[Session], connects: int) -> Session:
    """Return the session once the connection was made so many times."""
    while made.connects < connects or made.session is None:
        await made.changed()
    return made.session


async def lose(made: Connection[Session], why: str) -> None:
    """Lose the session, and return when there is another one."""
    connects = made.connects
    made.up().lost.set_result(why)
    await reach(made, connects + 1)


async def never() -> None:
    await asyncio.Event().wait()


async def cancels_itself() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


# The first attempt


async def test_it_opens_and_closes() -> None:
    made = connection(transport := Transport())
    assert made.state is ConnectionState.CLOSED
    await made.open()
    assert made.state is ConnectionState.UP
    assert made.up() is transport.sessions[0]
    assert repr(made) == "<Connection amqp profile 'orders' up>"
    await made.close()
    assert made.state is ConnectionState.CLOSED
    assert made.session is None
    assert transport.sessions[0].ended == ["closed", "aborted"]
    await made.close()


async def test_a_first_attempt_that_fails_is_told_and_not_repeated() -> None:
    made = connection(transport := Transport(OSError("no route")))
    with pytest.raises(ConnectFailed, match=r"^amqp profile 'orders': no route$"):
        await made.open()
    assert made.state is ConnectionState.CLOSED
    assert transport.attempts == [0]


async def test_it_can_be_opened_again() -> None:
    made = connection(Transport(OSError("no route")))
    with pytest.raises(ConnectFailed):
        await made.open()
    await made.open()
    assert made.state is ConnectionState.UP
    await made.close()
    await made.open()
    assert made.connects == 2
    await made.close()


async def test_one_that_waits_opens_although_the_first_attempts_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = asyncio.Event()
    async with opened(Transport(OSError("no route"), gate.wait), wait=True) as made:
        with pytest.raises(Unavailable, match=r"^amqp profile 'orders': not connected: no route$"):
            made.up()
        gate.set()
        await reach(made, 1)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [
        "amqp profile 'orders': cannot connect, and tries again for ever: no route",
        "amqp profile 'orders': connected",
    ]


async def test_every_host_has_its_turn_before_it_fails() -> None:
    made = connection(transport := Transport(OSError("a"), OSError("b"), OSError("c")), attempts=3)
    with pytest.raises(ConnectFailed, match=r": c$"):
        await made.open()
    assert transport.attempts == [0, 1, 2]


async def test_the_second_host_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(transport := Transport(OSError("a")), attempts=2, pause=(1000.0, 1000.0)):
        assert transport.attempts == [0, 1]


async def test_after_a_loss_it_begins_with_the_host_that_was_good() -> None:
    async with opened(transport := Transport(OSError("a")), attempts=2) as made:
        transport.plan = [OSError("b")]
        await lose(made, "gone")
        assert transport.attempts == [0, 1, 1, 2]


async def test_a_client_library_that_cancels_itself_has_failed() -> None:
    made = connection(Transport(cancels_itself))
    with pytest.raises(ConnectFailed, match="cancelled from within"):
        await made.open()


async def test_it_goes_on_trying_after_a_client_library_that_cancels_itself() -> None:
    async with opened(transport := Transport(cancels_itself, asyncio.CancelledError()), wait=True) as made:
        await reach(made, 1)
        assert transport.attempts == [0, 1, 2]


# Losses


async def test_it_is_restored_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async with opened(transport := Transport()) as made:
        for number in range(1, 200):
            transport.plan = [OSError("down")] * (number % 5)
            (await reach(made, number)).lost.set_result("the line was cut")
        await reach(made, 200)
        assert all(session.ended == ["closed", "aborted"] for session in transport.sessions[:-1])
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told[0] == "amqp profile 'orders': the connection is lost: the line was cut"
    again = [record for record in caplog.records if record.getMessage().endswith("connected again")]
    assert len(again) == 199


async def test_many_failures_in_a_row_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(transport := Transport()) as made:
        transport.plan = [OSError("down") for _ in range(50)]
        await lose(made, "gone")
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [
        "amqp profile 'orders': the connection is lost: gone",
        "amqp profile 'orders': connected again",
    ]


async def test_the_connections_of_a_profile_that_are_lost_and_restored_together_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    lanes, other = connection(first := Transport()), connection(second := Transport())
    bills, consumers = connection(Transport(), name="amqp profile 'bills'"), Consumers()
    bills.join(consumers)
    await bills.open()
    lanes.join(consumers)
    other.join(consumers, "consumers")
    await lanes.open()
    await other.open()
    for number in (2, 3):
        first.plan, second.plan = [OSError("down")], [OSError("down")] * 3
        lanes.up().lost.set_result("the broker stopped")
        other.up().lost.set_result("the broker stopped")
        await reach(lanes, number)
        await reach(other, number)
        # Another profile of the same broker is told by itself.
        bills.up().lost.set_result("the broker stopped")
        await reach(bills, number)
    for each in (lanes, other, bills):
        await each.close()
    lost = "amqp profile 'orders': the connection is lost: the broker stopped"
    assert [record.getMessage() for record in caplog.records] == [
        lost,
        "amqp profile 'orders': connected again",
        lost.replace("orders", "bills"),
        "amqp profile 'bills': connected again",
    ] * 2
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_the_pauses_are_those_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, float]] = []

    def none(failures: int, least: float, most: float) -> float:
        asked.append((failures, least, most))
        return 0

    monkeypatch.setattr(supervisor, "backoff", none)
    monkeypatch.setattr(supervisor, "SHORT_LIFE", 0.0)

    plan = [OSError("down") for _ in range(6)]
    async with opened(transport := Transport(*plan), wait=True, attempts=2, pause=(0.5, 8.0)) as made:
        await reach(made, 1)
        transport.plan = [OSError("down"), OSError("down")]
        await lose(made, "gone")
    # A pause after each round of the two hosts; what counts begins anew when it was up.
    assert asked == [(1, 0.5, 8.0), (2, 0.5, 8.0), (3, 0.5, 8.0), (1, 0.5, 8.0)]


async def test_a_broker_that_drops_its_connections_is_asked_ever_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(supervisor, "backoff", lambda failures, *_: asked.append(failures) or 0)

    async with opened(transport := Transport(), attempts=2) as made:
        for number in range(1, 5):
            (await reach(made, number)).lost.set_result("go away")
        await reach(made, 5)
        assert asked == [1, 2, 3, 4]
        transport.plan = [OSError("down"), OSError("down")]
        await lose(made, "go away")
        assert asked == [1, 2, 3, 4, 5, 1]
        monkeypatch.setattr(supervisor, "SHORT_LIFE", 0.0)
        made.up().lost.set_result("after a long life")
        (await reach(made, 7)).lost.set_result("after a long life")
        await reach(made, 8)
        assert asked == [1, 2, 3, 4, 5, 1]


async def test_a_session_that_does_not_close_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CLOSE_TIMEOUT", 1e-6)

    class Stuck(Session):
        async def close(self) -> None:
            await never()

    monkeypatch.setattr("tests.engine.wire.base.test_supervisor.Session", Stuck)
    async with opened(transport := Transport()) as made:
        await lose(made, "gone")
    assert [session.ended for session in transport.sessions] == [["aborted"], ["aborted"]]


@pytest.mark.parametrize("problem", [OSError("gone"), asyncio.CancelledError()])
async def test_a_session_that_fails_to_close_is_dropped(
    problem: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Session):
        async def close(self) -> None:
            raise problem

    monkeypatch.setattr("tests.engine.wire.base.test_supervisor.Session", Broken)
    async with opened(transport := Transport()) as made:
        await lose(made, "gone")
    assert made.state is ConnectionState.CLOSED
    assert [session.ended for session in transport.sessions] == [["aborted"], ["aborted"]]
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


# Closing


async def test_close_ends_an_attempt_under_way() -> None:
    made = connection(Transport(never))
    opening = asyncio.ensure_future(made.open())
    await turns(3)
    assert made.state is ConnectionState.CONNECTING
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert made.state is ConnectionState.CLOSED


async def test_close_ends_an_attempt_to_restore() -> None:
    async with opened(transport := Transport(None, never)) as made:
        made.up().lost.set_result("gone")
        while len(transport.attempts) < 2:
            await made.changed()
            await asyncio.sleep(0)
        assert made.state is ConnectionState.CONNECTING
    assert made.state is ConnectionState.CLOSED


async def test_close_ends_a_pause() -> None:
    async with opened(Transport(OSError("down")), wait=True, pause=(1000.0, 1000.0)) as made:
        assert made.state is ConnectionState.DOWN
    assert made.state is ConnectionState.CLOSED


async def test_what_is_sent_after_close_says_so() -> None:
    async with opened(Transport()) as made:
        pass
    with pytest.raises(Unavailable, match=r"^amqp profile 'orders': the connection is closed$"):
        made.up()


async def test_what_is_sent_during_the_first_attempt_says_so() -> None:
    gate = asyncio.Event()
    made = connection(Transport(gate.wait))
    opening = asyncio.ensure_future(made.open())
    await turns(3)
    assert made.state is ConnectionState.CONNECTING
    assert "the first attempt is under way" in str(made.unavailable())
    gate.set()
    await opening
    await made.close()


# Whether it takes events


async def test_a_live_connection_is_ready_and_one_that_is_closed_has_nothing_to_wait_for() -> None:
    made = connection(Transport())
    assert made.ready() is None
    await made.open()
    assert made.ready() is None
    await made.close()
    assert made.ready() is None


async def test_who_waits_is_woken_when_it_is_restored() -> None:
    gate = asyncio.Event()
    async with opened(Transport(None, OSError("down"), gate.wait)) as made:
        made.up().lost.set_result("gone")
        while made.last_error != "down":
            await made.changed()
        why, first = made.ready() or pytest.fail("it is ready")
        _, second = made.ready() or pytest.fail("it is ready")
        assert why == "amqp profile 'orders': not connected: down"
        gate.set()
        await asyncio.gather(first, second)
        assert made.ready() is None


async def test_who_waits_is_woken_when_it_is_closed() -> None:
    async with opened(Transport(OSError("down")), wait=True, pause=(1000.0, 1000.0)) as made:
        _, awaitable = made.ready() or pytest.fail("it is ready")
        waiting = asyncio.ensure_future(awaitable)
        await asyncio.sleep(0)
    await waiting


async def test_a_waiter_that_is_cancelled_takes_nobody_with_it() -> None:
    async with opened(Transport()) as made:
        made.up().block("low on memory")
        waiting = []
        for _ in range(3):
            _, awaitable = made.ready() or pytest.fail("it is ready")
            waiting.append(asyncio.ensure_future(awaitable))
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.wait({waiting[1]})
        made.up().block("")
        await asyncio.gather(waiting[0], waiting[2])


async def test_a_blocked_session_is_waited_for_until_it_no_longer_is() -> None:
    async with opened(Transport()) as made:
        made.up().block("low on\nmemory")
        why, awaitable = made.ready() or pytest.fail("it is ready")
        assert why == "amqp profile 'orders': the broker blocks publishers: low on\\nmemory"
        assert made.snapshot()["blocked"] == "low on\nmemory"
        waiting = asyncio.ensure_future(awaitable)
        await asyncio.sleep(0)
        made.up().block("low on disk")
        await asyncio.sleep(0)
        assert not waiting.done()
        made.up().block("")
        await waiting
        assert made.ready() is None


async def test_the_end_of_a_blocked_session_is_not_the_end_of_waiting() -> None:
    gate = asyncio.Event()
    async with opened(Transport(None, gate.wait)) as made:
        made.up().block("low on memory")
        _, awaitable = made.ready() or pytest.fail("it is ready")
        waiting = asyncio.ensure_future(awaitable)
        await asyncio.sleep(0)
        made.up().lost.set_result("gone")
        while made.session is not None:
            await made.changed()
        assert not waiting.done()
        gate.set()
        await waiting
        assert made.connects == 2


# What it tells


async def test_a_snapshot_says_what_it_is_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr("evbus.engine.wire.base.supervisor.time.time", lambda: next(clock))

    def split(made: Connection[Session]) -> tuple[float, dict[str, Any]]:
        found = made.snapshot()
        return found.pop("since"), found

    made = connection(Transport())
    closed = {"state": "closed", "connects": 0, "blocked": "", "last_error": ""}
    since, found = split(made)
    assert found == closed
    await made.open()
    up, found = split(made)
    assert up > since
    assert found == {**closed, "state": "up", "connects": 1}
    await lose(made, "cut")
    again, found = split(made)
    assert again > up
    assert found == {**closed, "state": "up", "connects": 2, "last_error": "cut"}
    await made.close()


async def test_states_follow_each_other() -> None:
    seen: list[ConnectionState] = []

    async def look(made: Connection[Session]) -> None:
        while True:
            seen.append(made.state)
            await made.changed()

    pausing = Transport(lambda: turns(3), lambda: turns(3))
    made = connection(pausing)
    looking = asyncio.ensure_future(look(made))
    await turns(1)
    await made.open()
    await turns(1)
    await lose(made, "cut")
    await turns(1)
    await made.close()
    await turns(1)
    looking.cancel()
    await asyncio.wait({looking})
    assert seen[:3] == [ConnectionState.CLOSED, ConnectionState.CONNECTING, ConnectionState.UP]
    # One that looks sees the last of several changes in one turn of the loop.
    assert [state for state in seen[3:] if state is not ConnectionState.DOWN] == [
        ConnectionState.CONNECTING,
        ConnectionState.UP,
        ConnectionState.CLOSED,
    ]


async def test_secrets_are_in_no_error_log_or_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    made = connection(Transport(OSError(f"login guest:{SECRET}\nfailed")))
    try:
        await made.open()
    except ConnectFailed as exc:
        said.append("".join(traceback.format_exception(None, exc, exc.__traceback__)))
    await made.open()
    await lose(made, f"amqp://guest:{SECRET}@host is gone")
    said.append(repr(made) + str(made.snapshot()))
    await made.close()
    said.append(caplog.text)
    assert "login guest:***\\nfailed" in said[0]
    assert "amqp://guest:***@host is gone" in said[1]
    assert [text for text in said if SECRET in text] == []


# Consumers of the profile


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # `ready` makes several
async def test_lanes_wait_for_the_consumers_of_their_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", WAIT)
    async with opened(Transport()) as made:
        made.join(Consumers())
        assert made.ready() is None
        made.consumers.gone("one")
        made.consumers.gone("two")
        found = made.ready()
        assert found is not None
        assert found[0] == "amqp profile 'orders': consumers of this process are not there yet"
        waiting = asyncio.ensure_future(found[1])
        await turns(3)
        assert not waiting.done()
        made.consumers.back("one")
        await waiting
        assert made.ready() is not None  # for the other
        made.consumers.closed("two")
        assert made.ready() is None


async def test_lanes_wait_only_so_long_for_consumers_that_cannot_be_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 0.05)

    async with opened(Transport()) as made:
        made.consumers.gone("one")
        made.join(made.consumers)
        while (found := made.ready()) is not None:
            await found[1]
        assert made.consumers


async def test_lanes_do_not_wait_for_ever_where_others_follow_before_the_last_consumer_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumers, now = Consumers(), 0.0
    held = []
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "SETTLING", 5.0)
        patch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        consumers.gone("never")
        now = 100.0
        for number in range(30):
            consumers.gone(number)
            consumers.back(number - 1)
            held.append(consumers.missing(0.0) > 0)
            now += 1
        # What comes after a while in which nobody was waited for is waited for again.
        now += 5
        consumers.gone("later")
        left = consumers.missing(0.0)
    assert held == [True] * 10 + [False] * 20
    assert left == 5.0


async def test_queues_may_come_back_for_a_while_after_the_connection_and_after_consumers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = connection(Transport())
    assert not made.settling
    await made.open()
    assert not made.settling
    monkeypatch.setattr(supervisor, "SETTLING", WAIT)
    assert made.settling
    await made.close()
    other = connection(Transport())
    assert not other.settling
    other.consumers.gone("one")
    assert other.settling


async def test_a_consumer_that_fails_again_and_again_is_gone_once() -> None:
    made = connection(Transport())
    made.consumers.gone("one")
    changed = made.consumers.changed
    await asyncio.sleep(0.001)
    made.consumers.gone("one")
    assert made.consumers.changed == changed
    made.consumers.back("one")
    made.consumers.gone("one")
    assert made.consumers.changed > changed


async def test_a_session_that_is_lost_takes_nothing_before_its_loss_was_looked_at() -> None:
    async with opened(Transport()) as made:
        made.up().lost.set_result("it was dropped")
        assert made.state is ConnectionState.UP
        found = made.ready()
        assert found is not None
        with pytest.raises(Unavailable, match="not connected: it was dropped"):
            made.up()
        await asyncio.wait_for(found[1], 5)
        assert made.ready() is None


async def test_a_delivery_that_waits_for_a_session_is_told_at_its_deadline_that_there_is_none() -> None:
    async with opened(Transport(OSError("down"), never), wait=True) as made:
        with pytest.raises(Unavailable, match="^amqp profile 'orders': not connected: down$"):
            await call(made.live(), 0.001)
        waiting = asyncio.ensure_future(made.live())
        await turns(3)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
