"""The engine without POP: a bus on destinations that do what a test tells them."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evbus.engine.cli.replay import files, records
from evbus.engine.core.broker import Broker
from evbus.engine.core.dead.store import DeadStore
from evbus.engine.core.lane.lane import DeadLetter, Lane, LaneKey
from evbus.engine.core.lane.sender import Sender
from evbus.engine.core.lifecycle.bus import Engine, Report, RunPlan
from evbus.engine.core.queue import Queue
from evbus.engine.core.settings import DeliverySettings, Retry, Settings
from evbus.types import Envelope

T = TypeVar("T")
WAIT = 20.0

#: Tries again at once, nearly.
SOON = Retry(attempts=3, min=1e-9, max=1e-9)


def encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


class Target:
    """A destination. What it confirmed is in ``got``, every try in ``tried``.

    ``plan`` holds what happens to the next tries: None (all is well), an exception, a function that is
    called with the events and returns an awaitable of outcomes, or :data:`HANG`. Afterwards all is well.
    With ``overlap``, and ``batching``, it is given batches while it has not answered for others.

    :cvar begins: it takes batches at once, if it can (``begin_batch``).
    """

    begins = False

    def __init__(self, *, batching: bool = False, overlap: bool = False, plan: Iterable[Any] = ()) -> None:
        self.batching = batching
        self.overlap = overlap
        self.plan: deque[Any] = deque(plan)
        self.got: list[bytes] = []
        self.tried: list[list[bytes]] = []
        self.letters: list[Envelope] = []
        self.hanging = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = 0

    async def publish(self, _ctx: Any, routing_key: str, body: bytes, headers: dict[str, str]) -> None:
        (outcome,) = await self.publish_batch(_ctx, [Envelope("", routing_key, body, headers)])
        if outcome is not None:
            raise outcome

    async def publish_batch(self, _ctx: Any, events: list[Envelope]) -> Any:
        self.tried.append([event.body for event in events])
        what = self.plan.popleft() if self.plan else None
        outcomes: list[Any] = [None] * len(events)
        if what is HANG:
            await self._hang()
        elif isinstance(what, BaseException):
            raise what
        elif what is not None:
            outcomes = await what(events)
        for event, outcome in zip(events, outcomes):  # noqa: B905 - a test may return too few
            if outcome is None:
                self.got.append(event.body)
                self.letters.append(event)
        return outcomes

    def begin_batch(self, ctx: Any, events: list[Envelope]) -> asyncio.Future[Any] | None:
        """Take a batch, and answer for it as :meth:`publish_batch` does."""
        return asyncio.ensure_future(self.publish_batch(ctx, events)) if self.begins else None

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


HANG = object()


def sender(target: Any, **options: Any) -> Sender:
    takes = ("routing_key", "body", "headers")
    batch = target.publish_batch if target.batching else None
    ctx = options.pop("ctx", {"state": None})
    options.setdefault("overlap", getattr(target, "overlap", False))
    if getattr(target, "begins", False):
        options.setdefault("begin_batch", target.begin_batch)
    if hasattr(target, "publish_nowait"):
        options.setdefault("publish_nowait", target.publish_nowait)
    return Sender(ctx, publish=target.publish, takes=takes, publish_batch=batch, **options)


class Rig:
    """A bus with a lane for each target that was added."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.queue = Queue()
        self.names = {"SERIAL_PLUGIN": "json", "PLUGIN": "json"}
        self.broker = Broker(
            self.queue,
            prepare=lambda: None,
            select=lambda: (encode, "application/json"),
            new=self.names,
            old=self.names,
        )
        self.settings = Settings(**{"drain_timeout": WAIT, **settings})
        self.broker.configure(self.settings, None)
        self.states: list[Any] = []
        self.bus = Engine(self.queue, self.broker, self.states.append)
        self.path = folder / "dead.jsonl"
        self.lanes: list[Lane] = []
        self.on_error: Callable[[dict[str, Any]], Any] | None = None

    def add(
        self, target: Any, pattern: str = "*", delivery: DeliverySettings | None = None, **options: Any
    ) -> Lane:
        made = sender(target, **options)
        key = LaneKey(f"plugin{len(self.lanes)}", "provider", pattern)
        lane = Lane(key, made, delivery or DeliverySettings(retry=SOON), self.queue, self._dead_letter)
        self.lanes.append(lane)
        return lane

    def to(self, target: T, *args: Any, **options: Any) -> T:
        """Add a lane to a target, and return the target."""
        self.add(target, *args, **options)
        return target

    def _dead_letter(self, lane: Lane, dead: list[DeadLetter]) -> None:
        self.bus.dead_letter(lane, dead)

    def put_nowait(self, body: Any, profile: str = "default", headers: Any = None, key: str = "") -> None:
        left = self.broker.offer(key, body, profile, headers)
        if left is not None:
            self.broker.insist(*left)

    def fill(self, count: int, profile: str = "default") -> None:
        """Put events whose bodies are 0, 1, 2, ..."""
        for number in range(count):
            self.put_nowait(number, profile)

    async def put(self, body: Any, profile: str = "default", headers: Any = None) -> None:
        if self.broker.draining:
            self.broker.refuse_unless_callback()
        left = self.broker.offer("", body, profile, headers)
        if left is not None:
            await self.broker.wait(left)

    async def start(self) -> None:
        """Do as ``hub.evbus.init.start``."""
        self.bus.begin()
        try:
            plan = RunPlan(
                lanes=self.lanes,
                find=fnmatch.fnmatchcase,
                on_error=self.on_error,
                contexts={},
                dead_store=DeadStore(self.path),
                drain_timeout=self.settings.drain_timeout,
            )
            await self.bus.run(plan)
        except BaseException as exc:
            self.bus.fail(exc)
            raise

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.start())
        await within(self.bus.join())
        try:
            yield
        finally:
            await self.stop()
            await within(task)

    async def deliver(self, count: int = 0, profile: str = "default") -> None:
        """Put so many events, and deliver all that was put."""
        self.fill(count, profile)
        async with self.running():
            await until(self.queue.empty)
        self.check()

    async def stop(self) -> Report:
        return await within(self.bus.stop())

    def dead(self) -> list[Any]:
        """Return the records of the dead store."""
        return list(records(files(self.path)))

    def dead_lettered(self) -> list[bytes]:
        """Return the bodies in the dead store."""
        return [record.envelope().body or record.body_base64 for record in self.dead()]

    def check(self) -> dict[str, Any]:
        """Return a snapshot whose every identity holds."""
        found = self.bus.snapshot()
        bus = found["bus"]
        held = [
            event.body
            for lane in self.bus.lanes.values()
            for events in (lane.buffer, lane.buffer.taken())
            for event in events
        ]
        assert self.queue.held_size == sum(map(len, held))
        parts = ("routed", "unmatched", "got", "dropped", "queued")
        assert bus["accepted"] == sum(bus[name] for name in parts), bus
        for name, lane in found["lanes"].items():
            parts = ("delivered", "dead", "dropped", "queued", "in_flight")
            assert lane["accepted"] == sum(lane[part] for part in parts), (name, lane)
            assert all(lane[part] >= 0 for part in parts), (name, lane)
        held = 0
        for lane in self.bus.lanes.values():
            beyond = max(0, len(lane.buffer) - lane.delivery.buffer)
            held += 0 if lane.delivery.on_full == "drop_oldest" else beyond
        assert found["bus"]["held"] == held
        return found


def numbers(count: int) -> list[bytes]:
    """Return the bodies of ``count`` events whose bodies are 0, 1, 2, ..."""
    return [b"%d" % number for number in range(count)]


def counts(found: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Return some of what a snapshot counts."""
    return tuple(found[name] for name in names)


async def within(awaitable: Any, seconds: float = WAIT) -> Any:
    return await asyncio.wait_for(awaitable, seconds)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until something holds."""

    async def turn() -> None:
        while not condition():  # noqa: ASYNC110 - there is no event for most of what tests wait for
            await asyncio.sleep(0)

    await within(turn())


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def failure(kind: type[BaseException], function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the sentence of what ``function``, plain or asynchronous, raises."""

    def call() -> None:
        result = function(*args, **kwargs)
        if asyncio.iscoroutine(result):
            asyncio.run(within(result))

    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)
