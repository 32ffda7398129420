"""A lane: order, retries, buffers, workers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.lane import worker
from evbus.engine.core.settings import DeliverySettings, Retry
from evbus.engine.kit import backoff
from evbus.errors import BusFull, ConnectFailed, ConnectionLost, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope
from tests.evbus.rig import HANG, SOON, Rig, Target, counts, numbers, turns, until

#: The ways in which a lane may publish: one by one, in batches, and with two batches under way.
WAYS: list[dict[str, bool]] = [{}, {"batching": True}, {"batching": True, "overlap": True}]


# Order and retries


@pytest.mark.parametrize("batching", [True, False])
async def test_events_arrive_in_order_and_retries_do_not_change_it(rig: Rig, batching: bool) -> None:
    problems = (ValueError("x"), Unavailable("y"), asyncio.CancelledError())
    target = rig.to(
        Target(
            batching=batching,
            plan=[None, problems[0], None, problems[1], problems[1], problems[2], None, problems[0]],
        ),
        delivery=DeliverySettings(batch=1, retry=SOON),
    )
    await rig.deliver(20)
    assert target.got == numbers(20)
    assert rig.check()["lanes"]["plugin0.provider.*"]["retried"] == 5


@pytest.mark.parametrize("way", WAYS)
async def test_every_byte_in_a_lane_counts_against_the_bound_of_the_bus(tmp_path: Path, way: Any) -> None:
    rig = Rig(tmp_path, queue_bytes=10_000)
    target = Target(**way, plan=[HANG, HANG])
    done: list[int] = []

    async def put_all() -> None:
        for number in range(40):
            await rig.put(b"%d" % number * 500)
            done.append(number)

    lane = rig.add(target, delivery=DeliverySettings(batch=3, retry=SOON))
    async with rig.running():
        putting = asyncio.ensure_future(put_all())
        await turns(200)
        rig.check()
        count = len(done)
        assert 10 <= count < 20
        assert lane.snapshot()["queued"] + lane.counters.in_flight == count
        with pytest.raises(BusFull) as caught:
            rig.put_nowait(b"x" * 1000)
        assert 9_000 < caught.value.size <= 10_000
        await turns(50)
        assert len(done) == count
        while not putting.done():
            target.release.set()
            await turns(1)
        await putting
    assert sorted(target.got) == sorted(b"%d" % number * 500 for number in range(40))
    assert rig.queue.held_size == 0


async def test_an_event_larger_than_the_bound_is_taken_when_there_is_no_other(tmp_path: Path) -> None:
    rig = Rig(tmp_path, queue_bytes=100)
    target = rig.to(Target())

    async with rig.running():
        for number in range(3):
            await asyncio.wait_for(rig.put(b"%d" % number * 1000), 20)
    assert target.got == [b"%d" % number * 1000 for number in range(3)]


async def test_a_plugin_that_puts_events_does_not_wait_for_room_that_it_has_to_make(tmp_path: Path) -> None:
    rig = Rig(tmp_path, queue_bytes=100)

    class Putting(Target):
        async def publish_batch(self, ctx: Any, events: Any) -> Any:
            for event in events:
                if event.body.startswith(b"0"):
                    await rig.put(b"1" * 90)
            return await super().publish_batch(ctx, events)

    target = rig.to(Putting())

    async with rig.running():
        await asyncio.wait_for(rig.put(b"0" * 90), 20)
        await until(lambda: len(target.got) == 2)
    assert target.got == [b"0" * 90, b"1" * 90]


class Panic(BaseException):
    """What a library in another language raises."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "problem", [Panic("index"), SystemExit(2), GeneratorExit(), asyncio.CancelledError()]
)
async def test_whatever_publish_raises_is_a_failed_attempt(
    rig: Rig, way: Any, problem: BaseException
) -> None:
    class Falling(Target):
        async def publish_batch(self, ctx: Any, events: Any) -> Any:
            if events[0].body == b"0":
                raise problem
            return await super().publish_batch(ctx, events)

    lane = rig.add(target := Falling(**way), delivery=DeliverySettings(batch=1, retry=SOON))
    await rig.deliver(3)
    assert target.got == numbers(3)[1:]
    assert rig.dead_lettered() == numbers(1)
    assert lane.counters.dead == 1
    said = "cancelled from within" if isinstance(problem, asyncio.CancelledError) else type(problem).__name__
    assert said in rig.dead()[0].dead["reason"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [0, 2])
async def test_a_publish_that_cancels_its_own_task_is_a_failed_attempt(
    rig: Rig, way: Any, before: int
) -> None:
    class Cancelling(Target):
        async def publish_batch(self, ctx: Any, events: Any) -> Any:
            if events[0].body == b"0":
                await turns(before)
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await turns(1)
            return await super().publish_batch(ctx, events)

    lane = rig.add(target := Cancelling(**way), delivery=DeliverySettings(batch=1, retry=SOON))
    await rig.deliver(3)
    assert target.got == numbers(3)[1:]
    assert rig.dead_lettered() == numbers(1)
    assert (lane.counters.dead, lane.counters.retried) == (1, 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_publish_that_cancels_its_own_task_and_ends_without_waiting_ends_nothing_else(
    rig: Rig, way: Any, fails: bool
) -> None:
    class Cancelling(Target):
        async def publish_batch(self, ctx: Any, events: Any) -> Any:
            if events[0].body != b"0":
                return await super().publish_batch(ctx, events)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if fails:
                raise asyncio.CancelledError
            return [None]

    lane = rig.add(target := Cancelling(**way), delivery=DeliverySettings(batch=1, retry=SOON))
    await rig.deliver(3)
    assert target.got == numbers(3)[1:]
    assert rig.dead_lettered() == numbers(1 if fails else 0)
    assert (lane.counters.delivered, lane.counters.dead) == ((2, 1) if fails else (3, 0))


@pytest.mark.parametrize("problem", [Panic("index"), SystemExit(2), asyncio.CancelledError()])
async def test_a_lane_goes_on_whatever_its_worker_comes_upon(
    rig: Rig, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RESTART", 0)
    target, problems = Target(), [problem]

    def ready(_ctx: Any) -> None:
        if problems:
            raise problems.pop()

    lane = rig.add(target, ready=ready)
    await rig.deliver(3)
    assert target.got == numbers(3)
    assert lane.counters.delivered == 3


async def test_batches_are_no_larger_than_they_may_be(rig: Rig) -> None:
    target = rig.to(Target(batching=True), delivery=DeliverySettings(batch=7))
    await rig.deliver(50)
    assert max(map(len, target.tried)) == 7
    assert target.got == numbers(50)


async def test_only_what_failed_of_a_batch_is_tried_again(rig: Rig) -> None:

    async def odd_ones_fail(events: Any) -> list[Any]:
        return [ValueError(event.body) if int(event.body) % 2 else None for event in events]

    target = rig.to(Target(batching=True, plan=[odd_ones_fail]))
    await rig.deliver(6)
    assert (target.tried, sorted(target.got)) == ([numbers(6), [b"1", b"3", b"5"]], numbers(6))


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("way", WAYS)
async def test_an_event_gets_exactly_its_attempts_and_then_is_dead(
    rig: Rig, attempts: int, way: dict[str, bool]
) -> None:
    target = rig.to(
        Target(**way, plan=[ValueError("no good")] * attempts),
        delivery=DeliverySettings(retry=Retry(attempts=attempts, min=1e-9, max=1e-9)),
    )
    await rig.deliver(1)
    assert target.tried == [[b"0"]] * attempts
    (record,) = rig.dead()
    assert (record.dead["attempts"], record.dead["reason"]) == (attempts, "no good")


@pytest.mark.parametrize("way", WAYS)
async def test_without_a_limit_an_event_is_tried_until_it_is_taken(rig: Rig, way: dict[str, bool]) -> None:
    target = rig.to(
        Target(**way, plan=[ValueError("x")] * 200),
        delivery=DeliverySettings(retry=Retry(attempts=0, min=1e-9, max=1e-9)),
    )
    await rig.deliver(1)
    assert target.got == [b"0"]


async def test_rejected_is_dead_at_once(rig: Rig) -> None:
    target = rig.to(Target(plan=[Rejected("never")]))
    await rig.deliver(3)
    assert target.tried == [[b"0"], [b"1"], [b"2"]]
    assert rig.dead_lettered() == [b"0"]


@pytest.mark.parametrize("way", WAYS)
async def test_unavailable_costs_no_attempt(rig: Rig, way: dict[str, bool]) -> None:
    target = rig.to(
        Target(**way, plan=[Unavailable("down")] * 50),
        delivery=DeliverySettings(retry=Retry(attempts=2, min=1e-9, max=1e-9)),
    )
    await rig.deliver(2)
    assert (target.got, rig.dead()) == ([b"0", b"1"], [])


class Poisoned(Target):
    """Refuses every call with one event in it, as a server that closes the connection does."""

    def __init__(self, poison: bytes, problem: Any = ValueError, **options: Any) -> None:
        super().__init__(**options)
        self.poison = poison
        self.problem = problem

    async def publish_batch(self, ctx: Any, events: Any) -> Any:
        if any(event.body == self.poison for event in events):
            self.tried.append([event.body for event in events])
            raise self.problem("cannot take this")
        return await super().publish_batch(ctx, events)


@pytest.mark.parametrize("attempts", [2, 4])
async def test_a_poison_event_gets_its_attempts_and_the_others_arrive_in_order(
    rig: Rig, attempts: int
) -> None:
    target = rig.to(
        Poisoned(b"20", batching=True),
        delivery=DeliverySettings(batch=50, retry=Retry(attempts=attempts, min=1e-9, max=1e-9)),
    )
    await rig.deliver(80)
    assert target.got == [body for body in numbers(80) if body != b"20"]
    assert sum(b"20" in bodies for bodies in target.tried) == attempts
    assert target.tried.count([b"20"]) == attempts - 1  # the first was with the others
    assert (rig.dead_lettered(), rig.dead()[0].dead["attempts"]) == ([b"20"], attempts)


@pytest.mark.parametrize("attempts", [2, 4])
async def test_a_poison_event_costs_the_batch_behind_it_nothing(rig: Rig, attempts: int) -> None:
    target = rig.to(
        Poisoned(b"20", batching=True, overlap=True),
        delivery=DeliverySettings(batch=50, retry=Retry(attempts=attempts, min=1e-9, max=1e-9)),
    )
    await rig.deliver(120)
    # The first may have failed when the second was about to be sent, which then waits and keeps its place.
    good = [body for body in numbers(120) if body != b"20"]
    assert target.got in (good, [*good[49:99], *good[:49], *good[99:]])
    assert target.tried.count([b"20"]) == attempts - 1
    assert rig.dead()[0].dead["attempts"] == attempts


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_batch_refused_for_one_event_rejects_that_one(rig: Rig, attempts: int) -> None:
    target = rig.to(
        Poisoned(b"3", Rejected, batching=True),
        delivery=DeliverySettings(retry=Retry(attempts=attempts, min=1e-9, max=1e-9)),
    )
    await rig.deliver(6)
    assert target.got == [b"0", b"1", b"2", b"4", b"5"]
    assert rig.dead_lettered() == [b"3"]


class Breaking(Target):
    """A connection that breaks over one event, with all in flight; ``down`` breaks are nobody's fault."""

    def __init__(self, poison: bytes, *, down: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.poison = poison
        self.down = down
        self.flying: dict[int, tuple[list[bytes], asyncio.Future[list[Any]]]] = {}

    async def publish_batch(self, ctx: Any, events: Any) -> Any:
        bodies = [event.body for event in events]
        self.tried.append(bodies)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.flying[len(self.tried)] = (bodies, answer)
        asyncio.get_running_loop().call_soon(self.answer)
        outcomes = await answer
        self.got += [body for body, outcome in zip(bodies, outcomes, strict=True) if outcome is None]
        return outcomes

    def answer(self) -> None:
        flying, self.flying = list(self.flying.values()), {}
        bodies = [body for sent, _ in flying for body in sent]
        problem = None
        if bodies and (self.down or self.poison in bodies):
            self.down = max(0, self.down - 1)
            problem = ConnectionLost("it broke", alone=len(bodies) == 1)
        for sent, answer in flying:
            if not answer.done():
                answer.set_result([problem] * len(sent))


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize(
    "way", [{}, {"batching": True}, {"overlap": True}, {"workers": 3}, {"workers": 3, "batching": True}]
)
async def test_an_event_that_breaks_the_connection_is_found_and_is_dead_after_its_attempts(
    rig: Rig, way: dict[str, Any], attempts: int
) -> None:
    workers, batching = way.get("workers", 1), bool(way.get("batching") or way.get("overlap"))
    retry = Retry(attempts=attempts, min=1e-9, max=1e-9)
    target = rig.to(
        Breaking(b"20", batching=batching, overlap="overlap" in way),
        delivery=DeliverySettings(batch=15, concurrency=workers, retry=retry),
    )
    await rig.deliver(80)
    good = [body for body in numbers(80) if body != b"20"]
    assert target.got == good if workers == 1 else sorted(target.got) == sorted(good)
    assert (rig.dead_lettered(), rig.dead()[0].dead["attempts"]) == ([b"20"], attempts)
    assert target.tried.count([b"20"]) >= attempts


@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_that_breaks_by_itself_costs_events_in_a_batch_no_attempt(
    rig: Rig, way: dict[str, bool], down: int
) -> None:
    target = rig.to(
        Breaking(b"none", down=down if way else 1, **way),
        delivery=DeliverySettings(retry=Retry(attempts=1, min=1e-9, max=1e-9)),
    )
    await rig.deliver(30)
    assert (target.got, rig.dead()) == (numbers(30), [])


async def test_attempts_that_take_too_long_are_counted(rig: Rig) -> None:
    target = rig.to(
        Target(plan=[HANG, HANG]),
        delivery=DeliverySettings(retry=Retry(attempts=2, min=1e-9, max=1e-9)),
        timeout=1e-4,
    )
    await rig.deliver(2)
    assert target.cancelled == 2
    assert (target.got, rig.dead_lettered()) == ([b"1"], [b"0"])
    assert rig.dead()[0].dead["reason"] == str(DeliveryTimeout(1e-4))


async def test_pauses_double_and_a_destination_may_ask_for_more(rig: Rig, monkeypatch: Any) -> None:
    slept: list[float] = []
    plain_sleep = asyncio.sleep

    async def sleep(seconds: float, *_args: Any) -> None:
        if seconds:
            slept.append(seconds)
        await plain_sleep(0)

    monkeypatch.setattr(worker.asyncio, "sleep", sleep)
    monkeypatch.setattr(backoff.random, "uniform", lambda low, high: high)
    rig.to(
        Target(plan=[ValueError()] * 5 + [Unavailable("x", retry_after=77.0)] + [None, ValueError()]),
        delivery=DeliverySettings(retry=Retry(attempts=0, min=1, max=10)),
    )
    await rig.deliver(2)
    assert slept == [1, 2, 4, 8, 10, 77, 1]


@pytest.mark.parametrize("overlap", [False, True])
async def test_delivered_bytes_are_those_of_what_was_delivered(rig: Rig, overlap: bool) -> None:
    async def mixed(events: Any) -> list[Any]:
        return [Rejected("x"), None, ValueError("x"), None, Rejected("x"), ValueError("x"), None]

    target = rig.to(Target(batching=True, overlap=overlap, plan=[mixed]))

    rig.broker.max_body = 10**7
    for number in range(7):
        rig.put_nowait(b"x" * 10**number)
    await rig.deliver()
    found = counts(rig.check()["lanes"]["plugin0.provider.*"], "delivered", "dead", "delivered_bytes")
    assert found == (5, 2, sum(map(len, target.got))) == (5, 2, 1_101_110)


# Buffers


async def test_drop_oldest_counts_exactly_what_it_drops(rig: Rig) -> None:
    lane = rig.add(
        target := Target(batching=True, plan=[HANG]),
        delivery=DeliverySettings(buffer=3, batch=2, on_full="drop_oldest"),
    )
    async with rig.running():
        rig.put_nowait(0)
        await target.hanging.wait()
        for number in range(1, 11):
            await rig.put(number)
            rig.check()
        await until(rig.queue.empty)
        found = counts(
            rig.check()["lanes"]["plugin0.provider.*"], "queued", "dropped", "in_flight", "queued_bytes"
        )
        assert (*found, rig.queue.held) == (3, 7, 1, len("8910"), 0)
        assert lane.state == "running"
        target.release.set()
    assert target.got == [b"0", b"8", b"9", b"10"]


async def test_a_blocked_lane_holds_back_producers_by_the_bounds_of_the_bus_and_nothing_else(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, queue_limit=10)
    stuck, free = Target(), Target()
    rig.add(stuck, delivery=DeliverySettings(buffer=2))
    rig.add(free)
    stuck.plan.append(HANG)
    accepted = []

    async def producer() -> None:
        for number in range(30):
            await rig.put(number)
            accepted.append(number)

    async with rig.running():
        task = asyncio.ensure_future(producer())
        await stuck.hanging.wait()
        await until(lambda: len(accepted) == 13)
        await turns(50)
        # One is being sent, two fit the buffer, ten fill the bus; the other lane has them all.
        assert len(accepted) == 13
        assert len(free.got) == 13
        assert counts(rig.check()["bus"], "held", "queued") == (10, 0)
        stuck.release.set()
        await task
        await until(lambda: len(stuck.got) == 30)
        assert (rig.queue.held, rig.queue.held_size) == (0, 0)
    assert stuck.got == free.got == numbers(30)


async def test_what_a_blocked_lane_holds_is_released_when_the_bus_stops(tmp_path: Path) -> None:
    rig = Rig(tmp_path, queue_limit=10, drain_timeout=0)
    target = rig.to(Target(), delivery=DeliverySettings(buffer=1))
    target.plan.append(HANG)
    async with rig.running():
        for number in range(8):
            await rig.put(number)
        await target.hanging.wait()
        await until(lambda: rig.queue.held == 6)
    assert (rig.queue.held, rig.queue.held_size, rig.dead_lettered()) == (0, 0, numbers(8))


# Independence and concurrency


async def test_a_lane_that_hangs_fails_or_is_down_delays_no_other(tmp_path: Path) -> None:
    rig = Rig(tmp_path, drain_timeout=0)
    hangs, fails, down, good = Target(), Target(), Target(), Target()
    hangs.plan.append(HANG)
    fails.plan.extend([ValueError("x")] * 100_000)
    down.plan.extend([Unavailable("x", retry_after=1000)] * 10)
    for target in (hangs, fails, down, good):
        rig.add(target, delivery=DeliverySettings(retry=Retry(attempts=0, min=1e-9, max=1e-9)))
    async with rig.running():
        for number in range(1000):
            await rig.put(number)
        await until(lambda: len(good.got) == 1000)
        assert (hangs.got, fails.got, down.got) == ([], [], [])
        rig.check()
    assert good.got == numbers(1000)


async def test_concurrency_is_the_number_of_publishes_in_flight(rig: Rig) -> None:
    target = rig.to(Target(plan=[HANG] * 3), delivery=DeliverySettings(concurrency=3))
    async with rig.running():
        for number in range(10):
            await rig.put(number)
        await until(lambda: len(target.tried) == 3)
        await turns(20)
        assert len(target.tried) == 3
        assert rig.check()["lanes"]["plugin0.provider.*"]["in_flight"] == 3
        target.release.set()
    assert sorted(target.got, key=int) == numbers(10)


async def test_workers_that_sleep_are_all_woken_by_a_burst(rig: Rig) -> None:
    target = rig.to(Target(), delivery=DeliverySettings(concurrency=4))
    async with rig.running():
        await turns(5)
        target.plan.extend([HANG] * 4)
        rig.fill(4)
        await until(lambda: len(target.tried) == 4)
        target.release.set()


async def test_an_event_put_by_a_finalizer_while_a_worker_lies_down_is_not_left(rig: Rig) -> None:
    target = rig.to(Target())
    loop = asyncio.get_running_loop()
    plain, nested = loop.create_future, []

    async def slow(events: Any) -> list[Any]:
        await turns(5)  # meanwhile the queue has become idle, and a put hands over at once
        return [None]

    def create_future() -> Any:
        # The worker found nothing queued and makes what it sleeps on; the collector runs.
        if asyncio.current_task().get_name().startswith("evbus lane") and not nested:  # type: ignore[union-attr]
            nested.append(1)
            rig.put_nowait(1)
        return plain()

    async with rig.running():
        await turns(5)
        target.plan.append(slow)
        loop.create_future = create_future  # type: ignore[method-assign]
        rig.put_nowait(0)
        await until(lambda: nested)
        await until(lambda: len(target.got) == 2)
        loop.create_future = plain  # type: ignore[method-assign]


# A destination that has as much as it may have


async def test_what_is_delivered_without_a_worker_lets_those_go_on_who_wait_for_room(tmp_path: Path) -> None:
    """As with an event loop that runs timers before the worker."""
    rig, full, taken = Rig(tmp_path), [True], list[bytes]()

    def publish_nowait(_ctx: Any, events: list[Envelope]) -> int:
        if full[0]:
            raise BusFull(2, 2, 0, 0)
        taken.extend(event.body for event in events)
        return 0

    lane = rig.add(Target(batching=True), publish_nowait=publish_nowait)
    await lane.sender.open(1.0)
    with rig.queue.lock:
        at_once = lane.offer([event(0), event(1)], 2)
    assert at_once
    lane.deliver_now()
    assert rig.queue.stalled == 1
    full[0] = False
    await until(lambda: lane.idle)  # by nobody else than the lane
    assert taken == [b"0", b"1"]
    assert (lane.stalled, rig.queue.stalled) == (False, 0)

    full[0] = True
    with rig.queue.lock:
        lane.offer([event(2)], 1)
    lane.deliver_now()
    full[0] = False
    with rig.queue.lock:
        lane.offer([event(3)], 1)
    lane.deliver_now()
    assert (lane.idle, lane.stalled, rig.queue.stalled) == (True, False, 0)


def event(number: int) -> Envelope:
    return Envelope("default", "", str(number).encode())


# Workers


async def test_a_worker_that_fails_is_started_again_and_loses_nothing(
    rig: Rig, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(worker, "RESTART", 0)
    lane = rig.add(target := Target(batching=True), delivery=DeliverySettings(batch=4))
    plain, calls = lane.sender, []

    class Buggy:
        """A sender with a bug in it, twice."""

        batching, immediate, overlap = True, False, False

        def not_ready(self) -> None:
            return None

        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        async def send(self, events: Any, *_task: Any) -> Any:
            calls.append(1)
            if len(calls) in (1, 3):
                raise RuntimeError("a bug")
            return await plain.send(events)

    lane.sender = Buggy()  # type: ignore[assignment]
    await rig.deliver(20)
    assert target.got == numbers(20)
    assert caplog.text.count("the worker failed and is started again") == 2


async def test_states_tell_what_a_lane_is_doing(rig: Rig) -> None:
    lane = rig.add(target := Target(plan=[ValueError("down"), HANG]))
    async with rig.running():
        assert lane.state == "idle"
        await rig.put(1)
        await target.hanging.wait()
        assert lane.state == "retrying"
        assert lane.last_error == "down"
        target.release.set()
        await until(lambda: lane.idle)
        assert lane.state == "idle"
    assert lane.state == "closed"
    assert repr(lane) == "<Lane plugin0.provider.* closed queued=0>"


async def test_failing_is_logged_once_and_so_is_recovery_without_secrets(rig: Rig, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    lane = rig.add(
        Target(plan=[ValueError("login s3cr3t-s3cr3t\nfailed")] * 2 + [None]),
        delivery=DeliverySettings(retry=Retry(attempts=5, min=1e-9, max=1e-9)),
    )
    lane.secrets = frozenset({"s3cr3t-s3cr3t"})
    await rig.deliver(2)
    records = [record for record in caplog.records if record.name == "evbus.lane"]
    messages = [record.message for record in records if record.levelname == "WARNING"]
    assert len(messages) == 2
    assert "publishing fails and is tried again: login ***\\nfailed (ValueError at " in messages[0]
    assert "rig.py:" in messages[0]
    assert "delivers again" in messages[1]
    assert "s3cr3t" not in caplog.text
    assert "\n" not in messages[0]
    traces = [record.message for record in records if record.levelname == "DEBUG"]
    assert len(traces) == 2
    assert all(
        "Traceback (most recent call last)" in trace and "ValueError: login ***" in trace for trace in traces
    )


# Delivering at once


class Now(Target):
    """Delivers at once unless it is told to fail."""

    def __init__(self) -> None:
        super().__init__(batching=True)
        self.now: list[Any] = []
        self.refuse = False

    def publish_nowait(self, _ctx: Any, events: Any) -> None:
        self.now.append([event.body for event in events])
        if self.refuse:
            raise asyncio.QueueFull
        self.got += [event.body for event in events]


async def test_what_can_be_delivered_at_once_is_delivered_within_put(rig: Rig) -> None:
    target = rig.to(Now())
    async with rig.running():
        await turns(3)
        rig.put_nowait(0)
        assert target.got == [b"0"]
        rig.check()
    assert target.tried == []


async def test_what_cannot_be_delivered_at_once_goes_the_long_way_once_and_in_order(rig: Rig) -> None:
    target = rig.to(Now(), delivery=DeliverySettings(batch=3))
    async with rig.running():
        for number in range(60):
            target.refuse = number % 3 == 0
            rig.put_nowait(number)
            rig.check()
            if number % 7 == 0:
                await turns(1)
        target.refuse = True
        await until(lambda: len(target.got) == 60)
    assert target.got == numbers(60)
    assert target.tried
    assert target.now


@pytest.mark.parametrize("problem", [ValueError, asyncio.CancelledError])
async def test_publish_nowait_may_fail_as_it_likes(rig: Rig, problem: Any) -> None:
    def publish_nowait(_ctx: Any, events: Any) -> None:
        raise problem

    target = rig.to(Target(batching=True), publish_nowait=publish_nowait)
    await rig.deliver(5)
    assert target.got == numbers(5)


async def test_while_a_batch_is_under_way_nothing_overtakes_it(rig: Rig) -> None:
    target = rig.to(Now())
    async with rig.running():
        await turns(3)
        target.refuse = True
        target.plan.append(HANG)
        rig.put_nowait(0)
        await target.hanging.wait()
        target.refuse = False
        rig.put_nowait(1)
        await turns(5)
        assert target.got == []
        target.release.set()
        await until(lambda: len(target.got) == 2)
    assert target.got == [b"0", b"1"]


# Destinations that say when they take events


async def test_a_lane_waits_for_a_destination_that_is_down_and_counts_no_attempt(rig: Rig) -> None:
    target, up = Target(), asyncio.Event()
    secret = "hunter22"

    async def wait() -> None:
        await up.wait()

    def ready(ctx: Any) -> Any:
        return None if up.is_set() else (f"no connection to {secret}", wait())

    lane = rig.add(target, delivery=DeliverySettings(retry=Retry(attempts=1)), ready=ready)
    lane.secrets = frozenset([secret])
    async with rig.running():
        await rig.put(1)
        await until(lambda: lane.state == "waiting")
        assert rig.check()["lanes"][str(lane.key)]["state"] == "waiting"
        assert lane.last_error == "no connection to ***"
        assert (target.tried, lane.counters.retried) == ([], 0)
        up.set()
        await until(lambda: lane.idle)
    assert target.got == numbers(2)[1:]


async def test_a_lane_that_waits_ends_with_the_bus(rig: Rig) -> None:
    lane = rig.add(Target(), ready=lambda ctx: ("down", asyncio.Event().wait()))
    async with rig.running():
        await rig.put(1)
        await until(lambda: lane.state == "waiting")
        rig.bus.hurry()
    assert lane.state == "closed"
    assert [record.dead["reason"] for record in rig.dead()] == ["not delivered when the bus stopped: down"]


async def test_a_first_connection_that_fails_refuses_the_start(rig: Rig) -> None:
    async def opener(ctx: Any) -> None:
        raise ConnectFailed("amqp profile 'a': 127.0.0.1:1: nothing listens there")

    rig.add(Target(), opener=opener)
    with pytest.raises(ConnectFailed, match="nothing listens there"):
        await rig.start()
