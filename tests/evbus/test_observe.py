"""What is told of a bus: to observers, and in numbers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.observe import KINDS, Observer, Observers
from evbus.errors import BusFull, Rejected
from evbus.types import Envelope
from tests.evbus.kit import new_hub, running, write
from tests.servers._rabbitmq import RabbitMQ


class Log(Observer):
    """Notes everything as (kind, about), with the thread that told it."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []
        self.threads: set[str] = set()

    def note(self, kind: str, about: Any) -> None:
        self.all.append((kind, about))
        self.threads.add(threading.current_thread().name)

    def of(self, *kinds: str) -> list[Any]:
        return [(kind, about) for kind, about in self.all if kind in kinds]

    def accepted(self, event: Envelope, body: bytes) -> None:
        self.note("accepted", body)

    def delivered(self, where: Any, events: Sequence[Envelope]) -> None:
        self.note("delivered", (str(where), [event.body for event in events]))

    def retried(self, where: Any, problem: BaseException, count: int) -> None:
        self.note("retried", (str(where), str(problem), count))

    def dead(self, event: Any, where: Any, reason: str, attempts: int, problem: BaseException) -> None:
        self.note("dead", (str(where), reason, attempts))

    def left(self, event: Envelope, where: Any, reason: str) -> None:
        self.note("left", (str(where), event.body, reason))

    def dropped(self, where: Any, count: int) -> None:
        self.note("dropped", (str(where), count))

    def subscribed(self, listening: Any) -> None:
        self.note("subscribed", listening.listener.name)

    def received(self, listening: Any, deliveries: Sequence[Any]) -> None:
        self.note("received", (listening.listener.name, len(deliveries)))

    def calling(self, listening: Any, events: Sequence[Any]) -> None:
        self.note("calling", (listening.listener.name, list(events)))

    def handled(self, listening: Any, events: Sequence[Any], problem: BaseException | None) -> None:
        self.note("handled", (listening.listener.name, list(events), problem and str(problem)))


SOON = {"attempts": 2, "min": 1e-3, "max": 1e-3}
LANE = "internal.internal.default"
OURS = {"internal": {"default": {}}}


def observed(*observers: Observer, **options: Any) -> Any:
    hub = new_hub(**options)
    for observer in observers:
        hub.evbus.OBSERVERS.add(observer)
    return hub


async def one_event(hub: Any, listener: Any, contexts: Any = OURS) -> None:
    hub.event.subscribe("n", listener, name="counting", retry=SOON)
    async with running(hub, contexts):
        await hub.evbus.broker.put(routing_key="n", body=1)
        await hub.event.settle()


def test_each_step_of_an_event_is_told_in_its_order_in_the_thread_of_the_loop(tmp_path: Path) -> None:
    log = Log()
    asyncio.run(one_event(observed(log, dead_store=str(tmp_path / "dead")), lambda event: None))
    assert log.all == [
        ("subscribed", "counting"),
        ("accepted", b"1"),
        ("received", ("counting", 1)),
        ("delivered", (LANE, [b"1"])),
        ("calling", ("counting", [1])),
        ("handled", ("counting", [1], None)),
    ]
    assert log.threads == {threading.main_thread().name}


def test_an_event_put_by_a_thread_is_told_there_after_the_interceptors_with_its_body_before_them() -> None:
    log, hub = Log(), new_hub(pipeline=["compress"], compress_over=1)
    hub.evbus.init.settings()
    hub.evbus.OBSERVERS.add(log)
    thread = threading.Thread(target=hub.evbus.broker.put_nowait, args=("n", "x" * 99), name="putting")
    thread.start()
    thread.join()
    assert (log.all, log.threads) == ([("accepted", b'"' + b"x" * 99 + b'"')], {"putting"})


def test_failures_are_told_with_every_attempt_before_what_becomes_of_them(tmp_path: Path) -> None:
    def fails(event: Any) -> None:
        raise ValueError("no")

    log = Log()
    asyncio.run(one_event(observed(log, dead_store=str(tmp_path / "dead")), fails))
    assert log.of("handled", "retried", "dead") == [
        ("handled", ("counting", [1], "no")),
        ("retried", ("listener counting", "no", 1)),
        ("handled", ("counting", [1], "no")),
        ("dead", ("listener counting", "ValueError: no", 2)),
    ]


async def test_lanes_tell_of_retries_dead_letters_and_what_a_stop_leaves(tmp_path: Path) -> None:
    write(
        tmp_path,
        ingress__bad="""
        import evbus.errors
        def __init__(hub):
            hub.ingress.bad.ACCT = ["bad"]
        async def publish(hub, ctx, body):
            raise evbus.errors.Rejected("never") if body == b"1" else ConnectionError("down")
        """,
    )
    log = Log()
    hub = observed(log, plugin_dirs=[str(tmp_path)], dead_store=str(tmp_path / "dead"), drain_timeout=0.05)

    async with running(hub, {"bad": {"default": {"delivery": {"retry": {"attempts": 0}}}}}):
        await hub.evbus.broker.put(body=1)
        await hub.evbus.broker.put(body=2)
    lane = "bad.bad.default"
    assert ("dead", (lane, "never", 1)) in log.all
    assert ("retried", (lane, "down", 1)) in log.all
    ((_, (where, body, reason)),) = log.of("left")
    assert (where, body) == (lane, b"2")
    assert reason.startswith("not delivered when the bus stopped: ")
    assert log.of("delivered") == []


async def test_what_gives_way_in_a_lane_is_told(tmp_path: Path) -> None:
    log = Log()
    hub = observed(log)
    delivery = {"buffer": 2, "on_full": "drop_oldest"}

    for number in range(5):
        hub.evbus.broker.put_nowait(body=number)
    async with running(hub, {"file": {"default": {"path": str(tmp_path / "out"), "delivery": delivery}}}):
        await hub.event.settle()
    assert sum(count for _, (_, count) in log.of("dropped")) == 3


def test_what_an_observer_raises_is_logged_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Observer):
        def accepted(self, event: Envelope, body: bytes) -> None:
            raise RuntimeError("bad observer")

        def delivered(self, where: Any, events: Any) -> None:
            raise RuntimeError("bad observer")

        def handled(self, listening: Any, events: Any, problem: Any) -> None:
            raise RuntimeError("bad observer")

    log = Log()
    asyncio.run(one_event(observed(Bad(), log, dead_store=str(tmp_path / "dead")), lambda event: None))
    assert ("handled", ("counting", [1], None)) in log.all
    assert log.of("dead", "retried") == []
    assert caplog.text.count("an observer of the bus failed") == 3


def test_what_is_raised_before_a_call_is_what_the_attempt_fails_with(tmp_path: Path) -> None:
    class Refusing(Observer):
        def calling(self, listening: Any, events: Any) -> None:
            raise Rejected("not now")

    log, calls = Log(), list[Any]()
    asyncio.run(one_event(observed(log, Refusing(), dead_store=str(tmp_path / "dead")), calls.append))
    assert calls == []
    assert log.of("handled", "dead") == [
        ("handled", ("counting", [1], "not now")),
        ("dead", ("listener counting", "Rejected: not now", 1)),
    ]


async def test_an_observer_comes_and_goes_while_the_bus_runs() -> None:
    log, hub = Log(), new_hub()
    hub.event.subscribe("n", lambda event: None, name="counting")

    async with running(hub, OURS):
        for added in (False, True, False):
            if added:
                hub.evbus.OBSERVERS.add(log)
            await hub.evbus.broker.put(routing_key="n", body=added)
            await hub.event.settle()
            hub.evbus.OBSERVERS.remove(log)
    assert [kind for kind, _ in log.all] == ["accepted", "received", "delivered", "calling", "handled"]


def test_an_event_that_a_full_bus_refuses_was_told_and_one_that_is_too_large_was_not() -> None:
    log = Log()
    hub = observed(log, queue_limit=1, max_body=10)
    hub.evbus.broker.put_nowait(body=1)
    with pytest.raises(BusFull):
        hub.evbus.broker.put_nowait(body=2)
    with pytest.raises(Exception, match="more than"):
        hub.evbus.broker.put_nowait(body="x" * 20)
    assert log.all == [("accepted", b"1"), ("accepted", b"2")]


def test_nothing_is_composed_where_nobody_wants_to_know() -> None:
    class Some(Observer):
        def delivered(self, where: Any, events: Any) -> None: ...

    observers, some = Observers(), Some()
    assert all(getattr(observers, kind) is None for kind in KINDS)
    observers.add(some)
    assert [kind for kind in KINDS if getattr(observers, kind) is not None] == ["delivered"]
    assert observers.before(None, 0) is None
    assert observers.around(None, test_nothing_is_composed_where_nobody_wants_to_know) is (
        test_nothing_is_composed_where_nobody_wants_to_know
    )
    assert repr(observers) == "<Observers Some>"
    observers.remove(some)
    assert observers.delivered is None


# The numbers.


def test_a_snapshot_before_anything_happened(hub: Any) -> None:
    found = hub.evbus.stats.snapshot()
    assert (found["state"], found["lanes"]) == ("new", {})
    assert found["bus"]["accepted"] == found["bus"]["queued"] == 0


async def test_the_counters_of_the_bus_and_of_each_lane_add_up(tmp_path: Path) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")
    contexts = {"internal": {"a": {}, "*": {}}, "file": {"a": {"path": str(tmp_path / "out")}}}

    hub.evbus.broker.put_nowait(body=0, profile="got")
    await hub.evbus.broker.get()
    async with running(hub, contexts):
        for profile in ("a", "a", "b"):
            await hub.evbus.broker.put(body=1, profile=profile)
    found = hub.evbus.stats.snapshot()
    bus = found["bus"]
    assert bus["accepted"] == 4
    assert bus["accepted"] == sum(bus[name] for name in ("routed", "unmatched", "got", "dropped", "queued"))
    assert {name: lane["delivered"] for name, lane in found["lanes"].items()} == {
        "internal.internal.a": 2,
        "internal.internal.*": 3,
        "file.file.a": 2,
    }
    for lane in found["lanes"].values():
        parts = ("delivered", "dead", "dropped", "queued", "in_flight")
        assert lane["accepted"] == sum(lane[name] for name in parts)
        assert set(lane["latency"]) == {"p50", "p90", "p99", "max"}
    assert found["state"] == "stopped"


def test_a_snapshot_shows_no_secret(tmp_path: Path) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")
    secret = "hunter22-hunter22"
    contexts = {"webhook": {"*": {"url": "https://203.0.113.1/", "secret": f"raw:{secret}"}}}
    assert secret not in repr(hub.evbus.init.connect(contexts)) + repr(hub.evbus.stats.snapshot())


def test_connections_and_what_a_bridge_brought_in_are_counted(
    tmp_path: Path, rabbitmq: RabbitMQ, unique: str
) -> None:
    hub = new_hub(dead_store=tmp_path / "dead.jsonl")
    away = {"url": "amqp://127.0.0.1:1/", "first_connect": "wait"}
    amqp = {"in": {"url": rabbitmq.url, "queue": unique}, "away": away}
    contexts = {"amqp": amqp, "internal": {"default": {}}}

    async def main() -> Any:
        before = hub.evbus.stats.snapshot()["connections"]
        async with running(hub, contexts):
            await hub.evbus.broker.put(routing_key=unique, body=1, profile="in")
            await hub.evbus.bridge.run(contexts, "in", count=1)
            return before, hub.evbus.stats.snapshot()

    before, found = asyncio.run(main())
    assert before == {}
    assert (found["bus"]["accepted"], found["bus"]["relayed"]) == (1, 1)
    up, down = found["connections"]["amqp.in"], found["connections"]["amqp.away"]
    assert (up["state"], up["connects"], up["blocked"], up["last_error"]) == ("up", 1, "", "")
    assert down["state"] in ("connecting", "down")
    assert (down["connects"], "nothing listens there" in down["last_error"]) == (0, True)
    assert hub.evbus.stats.snapshot()["connections"] == {}
    assert rabbitmq.depth(unique) == (0, 0)
