"""The life of the bus: start lanes, feed them, drain them, end them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from evbus.errors import BusStopped, ConfigError, EvbusError, Rejected
from evbus.redact import one_line, redact
from evbus.types import Envelope

from ._broker import IN_CALLBACK, Broker
from ._dead import DeadStore
from ._lane import Dead, Lane
from ._queue import Queue
from ._route import Destination, Router, Totals
from ._sender import Sender

__all__ = ["Bus", "BusState", "Connection", "Plan", "Report"]

log = logging.getLogger("evbus.bus")

#: Events moved from the queue to the lanes before others get their turn.
SLICE = 512
#: Seconds that a plugin's open and close may take at start and stop.
OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
#: The same when the bus was told to hurry.
HURRY_TIMEOUT = 0.2


class BusState(Enum):
    """Where the bus is in its life."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Connection(NamedTuple):
    """A lane with its sender and, when the plugin has one, the function that ends its state."""

    pattern: str
    lane: Lane
    sender: Sender


class Plan(NamedTuple):
    """What to run: the connections, how names are matched, and whom to tell of dead events."""

    connections: Sequence[Connection]
    find: Callable[[str, str], bool]
    on_error: Callable[[dict[str, Any]], Any] | None
    contexts: Any
    dead_store: DeadStore
    drain_timeout: float


class Report(NamedTuple):
    """What ``stop()`` could not deliver: events by lane, and where they were written."""

    undelivered: dict[str, int]
    dead_store: str
    seconds: float

    def __str__(self) -> str:
        if not self.undelivered:
            return f"everything was delivered ({self.seconds:.2f} s)"
        lanes = ", ".join(f"{name}: {count}" for name, count in self.undelivered.items())
        return f"not delivered: {lanes}; written to {self.dead_store}"


class Bus:
    """One bus: a queue, a broker that fills it, and while it runs the lanes that empty it."""

    def __init__(self, queue: Queue, broker: Broker, on_state: Callable[[BusState], None]) -> None:
        self.queue = queue
        self.broker = broker
        self._state = BusState.NEW
        self._on_state = on_state
        self.lanes: dict[str, Lane] = {}
        self.report: Report | None = None
        self._totals = Totals()
        self._plan: Plan | None = None
        self._router: Router | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._joiners: list[asyncio.Future[None]] = []
        self._quiet: asyncio.Future[None] | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._errors: deque[dict[str, Any]] = deque()
        self._teller: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._hurried = False
        self._stop_early = False
        self._early: asyncio.Task[Report] | None = None

    @property
    def state(self) -> BusState:
        """Where the bus is in its life."""
        return self._state

    def _become(self, state: BusState) -> None:
        self._state = state
        self._on_state(state)

    def __repr__(self) -> str:
        return f"<Bus {self.state.value} queued={self.queue.qsize()} lanes={len(self.lanes)}>"

    # Start, join

    def begin(self) -> None:
        """Note that a start is under way: forget how an earlier one ended."""
        if self.state in (BusState.RUNNING, BusState.DRAINING):
            raise EvbusError("the bus is already started; stop it first")
        self._failure = None
        self._hurried = False

    def fail(self, problem: BaseException) -> None:
        """Tell everybody who joins that the start failed."""
        self._failure = problem
        self._wake_joiners()

    async def run(self, plan: Plan) -> None:
        """Deliver events by ``plan`` until :meth:`stop` is called."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._plan = plan
        self._stopping = loop.create_future()
        self._ended = loop.create_future()
        opened = False
        try:
            await self._open(plan)
            opened = True
            self._listen(loop, plan)
            if self._stop_early:
                self._stop_early = False
                self._early = loop.create_task(self.stop(), name="evbus early stop")
            await self._stopping
        except asyncio.CancelledError:
            log.warning("the bus was cancelled; call stop() to let it drain")
            raise
        finally:
            # A second cancellation must not cut the shutdown off between an event and its record.
            await asyncio.shield(asyncio.ensure_future(self._shutdown(plan, opened)))

    async def _open(self, plan: Plan) -> None:
        results = await asyncio.gather(
            *(connection.sender.open(OPEN_TIMEOUT) for connection in plan.connections), return_exceptions=True
        )
        for connection, problem in zip(plan.connections, results):  # noqa: B905 - one result each
            if isinstance(problem, (ConfigError, Rejected, asyncio.CancelledError)):
                raise problem
            if isinstance(problem, BaseException):
                reason = one_line(redact(str(problem) or type(problem).__name__, connection.lane.secrets))
                log.warning("lane %s: cannot be opened, and is tried again: %s", connection.lane.key, reason)

    def _listen(self, loop: asyncio.AbstractEventLoop, plan: Plan) -> None:
        self._router = Router(
            [Destination(connection.pattern, connection.lane) for connection in plan.connections],
            plan.find,
            self._totals,
        )
        self.lanes = {}
        for connection in plan.connections:
            self.lanes[_unique(str(connection.lane.key), self.lanes)] = connection.lane
            connection.lane.start()
        self.broker.refusal = None
        self.broker.draining = False
        self._become(BusState.RUNNING)
        self.queue.bind(loop)
        self.queue.listen(self._feed)
        self._wake_joiners()

    async def join(self) -> None:
        """Return when the bus is started; raise what made the start fail."""
        if self.state is BusState.RUNNING or self.state is BusState.DRAINING:
            return
        if self._failure is None:
            joiner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._joiners.append(joiner)
            await joiner
        if self._failure is not None:
            raise self._failure

    def _wake_joiners(self) -> None:
        joiners, self._joiners = self._joiners, []
        for joiner in joiners:
            if not joiner.done():
                joiner.get_loop().call_soon_threadsafe(_resolve, joiner)

    def _feed(self) -> None:
        """Move a slice of queued events to their lanes; come again while there are more."""
        router = self._router
        if router is None or self._loop is None:
            return
        with self.queue.lock:
            ready = router.dispatch(self.queue.take_locked(SLICE))
            more = not self.queue.empty()
        self.queue.wake()
        for lane in ready:
            lane.deliver_now()
        if more:
            self._loop.call_soon(self._feed)
        elif self._quiet is not None:
            self._check_quiet()

    # Dead events

    def bury(self, lane: Lane, dead: list[Dead]) -> None:
        """Send events that were given up to their dead letter profile or to the dead store."""
        for entry in dead:
            log.error(
                "lane %s: an event is dead after %d attempts: %s", lane.key, entry.attempts, lane.last_error
            )
            if not self._dead_letter(lane, entry):
                self._store(lane, entry.event, lane.last_error, entry.attempts)
            self._tell(lane, entry)

    def _dead_letter(self, lane: Lane, entry: Dead) -> bool:
        profile = lane.delivery.dead_letter
        # A dead letter that dies is not sent round again.
        if profile is None or self._router is None or "evbus-dead-lane" in entry.event.headers:
            return False
        headers = {
            **entry.event.headers,
            "evbus-dead-lane": str(lane.key),
            "evbus-dead-profile": entry.event.profile,
            "evbus-dead-reason": lane.last_error,
            "evbus-dead-attempts": str(entry.attempts),
        }
        with self.queue.lock:
            lanes = self._router.lanes(profile)
            letter = entry.event.replace(profile=profile, headers=headers)
            ready = [target for target in lanes if target.offer([letter], len(letter.body))]
        for target in ready:
            target.deliver_now()
        return bool(lanes)

    def _store(self, lane: Lane, event: Envelope, reason: str, attempts: int) -> None:
        if self._plan is not None:
            key = lane.key
            self._plan.dead_store.add(
                event,
                lane=str(key),
                plugin=key.plugin,
                provider=key.provider,
                profile=key.profile,
                reason=reason,
                attempts=attempts,
            )

    def _tell(self, lane: Lane, entry: Dead) -> None:
        plan = self._plan
        if plan is None or plan.on_error is None or self._loop is None:
            return
        self._errors.append(
            {
                "exception": entry.reason,
                "plugin": lane.key.plugin,
                "profile": entry.event.profile,
                "body": entry.event.body,
                "context": plan.contexts,
            }
        )
        if self._teller is None:
            self._teller = self._loop.create_task(self._tell_all(plan.on_error), name="evbus error callback")

    async def _tell_all(self, on_error: Callable[[dict[str, Any]], Any]) -> None:
        IN_CALLBACK.set(True)
        while self._errors:
            data = self._errors.popleft()
            try:
                if inspect.iscoroutinefunction(getattr(on_error, "func", on_error)):
                    await on_error(data)
                else:
                    result = await asyncio.to_thread(on_error, data)
                    if inspect.isawaitable(result):
                        await result
            except Exception:
                log.exception("the function named by error_callback_ref failed")
        self._teller = None
        if self._quiet is not None:
            self._check_quiet()

    # Stop

    async def stop(self) -> Report:
        """Take no new events, deliver what is there, and report what could not be delivered."""
        if self.state is BusState.NEW:
            # As with pop-evbus, whose stop is a mark at the end of the queue: a start that is still to
            # come delivers what is queued and ends.
            self._stop_early = True
        if self.state in (BusState.NEW, BusState.STOPPED) or self._plan is None or self._ended is None:
            return self.report or Report({}, "", 0.0)
        if self.state is BusState.RUNNING:
            self._become(BusState.DRAINING)
            self.broker.draining = True
            self.queue.wake(everyone=True)
            await self._drain(self._plan.drain_timeout)
            if self._stopping is not None and not self._stopping.done():
                self._stopping.set_result(None)
        await asyncio.shield(self._ended)
        return self.report or Report({}, "", 0.0)

    def hurry(self) -> None:
        """Let a stop that is under way deliver no more: what is left goes to the dead store now."""
        self._hurried = True
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def _drain(self, seconds: float) -> None:
        self._quiet = asyncio.get_running_loop().create_future()
        for lane in self.lanes.values():
            lane.on_idle = self._check_quiet
        self._check_quiet()
        await asyncio.wait({self._quiet}, timeout=0 if self._hurried else seconds)
        self._quiet.cancel()
        self._quiet = None

    def _check_quiet(self) -> None:
        if self._quiet is None or self._quiet.done() or not self.queue.empty() or self._teller is not None:
            return
        if all(lane.idle for lane in self.lanes.values()):
            self._quiet.set_result(None)

    async def _shutdown(self, plan: Plan, started: bool) -> None:
        begun = time.monotonic()
        undelivered: dict[str, int] = {}
        if started:
            self.broker.refusal = BusStopped
            while not self.queue.empty():
                self._feed()
            self.queue.listen(None)
            self.queue.wake(everyone=True)
            patience = HURRY_TIMEOUT if self._hurried else CLOSE_TIMEOUT
            all_left = await asyncio.gather(*(lane.close(patience) for lane in self.lanes.values()))
            for (name, lane), left in zip(self.lanes.items(), all_left):  # noqa: B905 - one result each
                if left:
                    undelivered[name] = len(left)
                reason = "not delivered when the bus stopped"
                for event in left:
                    self._store(lane, event, f"{reason}: {lane.last_error}" if lane.last_error else reason, 0)
        patience = HURRY_TIMEOUT if self._hurried else CLOSE_TIMEOUT
        await asyncio.gather(*(connection.sender.close(patience) for connection in plan.connections))
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.wait({self._teller})
        await plan.dead_store.close()
        self.report = Report(undelivered, str(plan.dead_store.path), time.monotonic() - begun)
        if undelivered:
            log.error("%s", self.report)
        self._become(BusState.STOPPED if started else BusState.NEW)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # Looking in

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, taken at one moment; see ``hub.evbus.stats.snapshot``."""
        with self.queue.lock:
            store = self._plan.dead_store if self._plan is not None else None
            return {
                "state": self.state.value,
                "bus": {
                    "routed": self._totals.routed,
                    "unmatched": self._totals.unmatched,
                    **self.queue.counts(),
                },
                "lanes": {name: lane.snapshot() for name, lane in self.lanes.items()},
                "dead_store": {
                    "path": str(store.path) if store else "",
                    "stored": store.stored if store else 0,
                    "pending": store.pending if store else 0,
                    "lost": store.lost if store else 0,
                },
            }


def _unique(name: str, taken: dict[str, Lane]) -> str:
    number = 2
    unique = name
    while unique in taken:
        unique = f"{name}#{number}"
        number += 1
    return unique


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
