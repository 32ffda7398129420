"""The life of the bus: start lanes, feed them, drain them, end them."""

from __future__ import annotations

import asyncio
import atexit
import logging
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from evbus.engine.core.broker import Broker
from evbus.engine.core.dead.letters import DeadLetters
from evbus.engine.core.dead.store import NO_STORE
from evbus.engine.core.error_callback import ErrorCallback
from evbus.engine.core.lane import worker
from evbus.engine.core.lane.lane import DeadLetter, Lane
from evbus.engine.core.lane.relay import Tracker
from evbus.engine.core.lane.route import LaneRouter
from evbus.engine.core.lifecycle.patience import Patience, within
from evbus.engine.core.lifecycle.plan import open_all
from evbus.engine.core.lifecycle.run import BusState, Report, RunPlan
from evbus.engine.core.lifecycle.unstopped import end_tasks, mark
from evbus.engine.core.observe import Observers
from evbus.engine.core.queue import Queue
from evbus.engine.kit.names import unique
from evbus.engine.kit.notifier import Notifier, resolve
from evbus.errors import BusStopped, EvbusError
from evbus.types import Envelope

__all__ = ["BusState", "Engine", "Report", "RunPlan"]

log = logging.getLogger("evbus.bus")

#: Events moved from the queue to the lanes before others get their turn.
SLICE = 512
#: Seconds that a plugin's open and close may take at start and stop.
OPEN_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
#: The same when the stop of the bus is cut short.
CUT_SHORT_TIMEOUT = 0.2
#: Seconds between two looks at whether anything is delivered, in a stop that lasts as long as that.
STEP = 1.0
#: Seconds that another thread waits for the lock.
LOCK_TIMEOUT = 1.0
#: Why events are dead that were left.
LEFT = "not delivered when the bus stopped"


#: Kept until they have stopped: one that is collected before has its tasks told one by one, by asyncio.
_started: set[Engine] = set()


def _tell_lost() -> None:
    for bus in list(_started):
        bus.tell_lost()


atexit.register(_tell_lost)


class Engine:
    """One bus: a queue, a broker that fills it, and while it runs the lanes that empty it.

    :param observers: told of what dies on it; the error callback is one of them while it runs.
    """

    def __init__(
        self,
        queue: Queue,
        broker: Broker,
        on_state: Callable[[BusState], None],
        observers: Observers | None = None,
    ) -> None:
        self.queue = queue
        self.broker = broker
        self._state = BusState.NEW
        self._on_state = on_state
        self._observers = observers or Observers()
        self._callback: ErrorCallback | None = None
        self.lanes: dict[str, Lane] = {}
        self.report: Report | None = None
        self._plan: RunPlan | None = None
        self._router: LaneRouter | None = None
        self._dead: DeadLetters | None = None
        self._tracker: Tracker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._joiners = Notifier()
        self._idle: asyncio.Future[None] | None = None
        # A lane that was busy when it was looked at last.
        self._busy: Lane | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._cut_short: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        # Not kept: asyncio tells of a start that failed and that nobody has joined when it collects its task.
        self._starting: Callable[[], asyncio.Task[Any] | None] = lambda: None
        self._taken = False
        self.hurried = False
        self._stop_early = False
        self._stopped_at = 0.0
        self._patience: Patience | None = None
        self._feeding = False
        # Events on their way from the queue to lanes that have yet to be found.
        self._moving = 0
        # What could not be delivered in this run, by lane.
        self._undelivered: Counter[str] = Counter()

    @property
    def state(self) -> BusState:
        """The state of the bus."""
        return self._state

    def _become(self, state: BusState) -> None:
        self._state = state
        self._on_state(state)

    def __repr__(self) -> str:
        return f"<Bus {self.state.value} queued={self.queue.qsize()} lanes={len(self.lanes)}>"

    def tell_lost(self) -> None:
        """Say how many accepted events are lost, if the event loop was closed before the bus was stopped."""
        if not self._taken or self._loop is None or not self._loop.is_closed():
            return
        self._release()
        lanes = [lane.snapshot() for lane in self.lanes.values()]
        lost = self.queue.qsize() + self._moving + sum(lane["queued"] + lane["in_flight"] for lane in lanes)
        if lost:
            log.error(
                "%d accepted events are lost: the event loop was closed before the bus was stopped; await "
                "hub.evbus.init.stop(), or use async with bus(...)",
                lost,
            )
        end_tasks(self._loop)

    def _release(self) -> None:
        self._taken = False
        _started.discard(self)

    # Start, join

    def begin(self) -> None:
        """Note that a start is under way: forget how an earlier one ended.

        :raises EvbusError: the bus is started, or being started.
        :raises BusForked: it belongs to the parent process.
        """
        self.broker.refuse_in_child()
        if self._taken:
            raise EvbusError("the bus is already started; stop it first")
        _tell_lost()
        self._taken = True
        _started.add(self)
        self._failure = None
        task = asyncio.current_task()
        if task is not None:
            self._starting = weakref.ref(task)
        self._patience = None
        self.hurried = False

    def fail(self, problem: BaseException) -> None:
        """Tell everybody who joins that the start failed."""
        if isinstance(problem, asyncio.CancelledError):
            # Raised in whoever joins it would look as if they had been cancelled.
            problem = EvbusError("the start of the bus was cancelled")
        self._failure = problem
        self._stop_early = False
        if self._ended is None or self._ended.done():
            self._release()
        self._joiners.notify()

    async def run(self, plan: RunPlan) -> None:
        """Deliver events by ``plan`` until :meth:`stop` is called."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        mark()
        self._plan = plan
        self._patience = None
        self._router = None
        self._undelivered = Counter()
        self._dead = DeadLetters(self.queue, plan.dead_store, self._observers)
        if plan.on_error is not None:
            self._callback = ErrorCallback(plan.on_error, self._check_idle, plan.contexts)
            self._observers.add(self._callback)
        self._tracker = Tracker(
            self.queue,
            self._dead.dead_letter,
            plan.dead_store.flush,
            lambda: self.lanes.values(),  # noqa: PLW0108 - others take their place
        )
        self._stopping, self._cut_short, self._ended = (loop.create_future() for _ in range(3))
        if self.hurried:
            resolve(self._cut_short)
        opened = False
        try:
            await open_all(plan.lanes, OPEN_TIMEOUT)
            self._listen(loop, plan, self._dead)
            opened = True
            if self._stop_early:
                self._stop_early = False
                self._begin_drain()
            await self._stopping
            await self._drain(self.patience())
        except asyncio.CancelledError:
            if opened:
                log.warning("the bus was cancelled; call stop() to let it drain")
            raise
        finally:
            if not loop.is_closed():
                # A second cancellation must not cut the shutdown off between an event and its record.
                self._ending = asyncio.ensure_future(self._shutdown(plan, self._dead, opened))
                await asyncio.shield(self._ending)

    def _listen(self, loop: asyncio.AbstractEventLoop, plan: RunPlan, dead: DeadLetters) -> None:
        self._router = dead.router = LaneRouter(
            [(lane.key.profile, lane) for lane in plan.lanes],
            plan.find,
            self.queue,
            plan.ends,
        )
        self._begin()
        lanes: dict[str, Lane] = {}
        for lane in plan.lanes:
            name = unique(str(lane.key), lanes)
            lanes[name] = lane
            before = self.lanes.get(name)
            if before is not None:
                # An operator's curves go on, as those of the bus do.
                lane.buffer.counters = before.counters
            worker.start(lane)
        self.lanes = lanes
        self.broker.connect(self._router.route)
        self.queue.bind(loop)
        self.queue.listen(self._feed)
        self._joiners.notify()

    def _begin(self) -> None:
        """Tell that the bus runs, before anything is taken: who cannot go along with it ends the start."""
        before, refusal = self._state, self.broker.refusal
        self.broker.refusal = None
        self.broker.draining = False
        try:
            self._become(BusState.RUNNING)
        except BaseException:
            self.broker.refusal = refusal
            self._become(before)
            raise

    async def join(self) -> None:
        """Return when the bus is started; raise what made the start fail."""
        before = self._joiners.count
        if self._failure is not None:
            # A start that was scheduled just before is about to forget how the one before it ended.
            await asyncio.sleep(0)
        if self.state is BusState.RUNNING or self.state is BusState.DRAINING:
            return
        if self._failure is None:
            await self._joiners.until(lambda: True if self._joiners.count != before else None)
        if self._failure is not None:
            task = self._starting()
            if task is not None and task.done() and not task.cancelled():
                # Who joins is told: asyncio would tell the same once more, when the task is collected.
                task.exception()
            raise self._failure

    def _feed(self) -> None:
        """Move a slice of queued events to their lanes; come again while there are more."""
        if self._router is None or self._loop is None or self._feeding:
            return
        # Events that are put meanwhile, by a log handler for instance, come after those being moved.
        self._feeding = True
        try:
            ready = self._move(self._router)
            self.queue.wake()
            for lane in ready:
                lane.deliver_now()
        finally:
            self._feeding = False
            if not self.queue.empty():
                self._loop.call_soon(self._feed)
        if self._idle is not None:
            self._check_idle()

    def _move(self, router: LaneRouter) -> dict[Lane, None]:
        """Move a slice of queued events to their lanes; return those that perhaps deliver them at once."""
        with self.queue.lock:
            ready, left = router.dispatch(self.queue.take_runs(SLICE))
            self._moving = sum([len(events) for _, events, _ in left]) if left else 0
        while left:
            router.route(left[0][0])
            with self.queue.lock:
                found, left = router.dispatch(left)
                self._moving = sum([len(events) for _, events, _ in left]) if left else 0
            ready |= found
        return ready

    def dead_letter(self, lane: Lane, dead: list[DeadLetter]) -> None:
        """Record events that were given up."""
        if self._dead is not None:
            self._dead.dead_letter(lane, dead)

    # Stop

    def patience(self, progress: Callable[[], int] | None = None) -> Patience:
        """Return the time that the present stop has; the first to ask begins it.

        :param progress: see :class:`Patience`.
        """
        if self._patience is None:
            seconds = self._plan.drain_timeout if self._plan is not None else 0.0
            self._patience = Patience(seconds, progress)
        return self._patience

    def limit(self) -> None:
        """Let a stop that is under way take the drain timeout from now on, whatever is delivered."""
        if self._patience is not None:
            self._patience.limit()

    async def stop(self) -> Report:
        """Take no new events, deliver what is there, and report what could not be delivered."""
        ended = self._ended
        if not self._taken or ended is None:
            if self.state is BusState.NEW and self._failure is None:
                # As with pop-evbus, whose stop is a mark at the end of the queue: a start that is still to
                # come delivers what is queued and ends.
                self._stop_early = True
            return self.report or Report({}, "", 0.0)
        if self.state is BusState.RUNNING:
            self._begin_drain()
        elif self.state is not BusState.DRAINING:
            self._stop_early = True
        await asyncio.shield(ended)
        return self.report or Report({}, "", 0.0)

    def _begin_drain(self) -> None:
        self._stopped_at = time.monotonic()
        self._become(BusState.DRAINING)
        self.broker.draining = True
        self.queue.wake(everyone=True)
        if self._stopping is not None:
            resolve(self._stopping)

    def hurry(self) -> None:
        """Let a stop that is under way deliver no more: what is left goes to the dead store now."""
        self.hurried = True
        if self._tracker is not None:
            self._tracker.wake()
        for waiting in (self._idle, self._cut_short):
            if waiting is not None:
                resolve(waiting)

    # Relay

    def lanes_of(self, profile: str) -> tuple[Lane, ...]:
        """Return the lanes that an event of this profile goes to, also while the bus drains."""
        return () if self._router is None else self._router.lanes(profile)

    def lanes_named(self, profile: str) -> list[Lane]:
        """Return the lanes of the profiles that have this very name."""
        return [] if self._router is None else self._router.named(profile)

    async def give_up(self, event: Envelope, where: str, problem: Exception, attempts: int) -> bool:
        """Record an event that was given up outside the lanes; return whether the record is on the disk.

        :raises BusStopped: the bus does not run.
        """
        if self._dead is None or not self._taken:
            raise BusStopped
        return await self._dead.give_up(event, where, problem, attempts)

    def keep(self, events: Iterable[Envelope], where: str, reason: str, tried: Mapping[int, int]) -> None:
        """Write events to the dead store that nobody takes any more, and tell the error callback.

        :param tried: how often they were tried that were, by their identity.
        :raises BusStopped: the bus does not run.
        """
        if self._dead is None:
            raise BusStopped
        for event in events:
            self._undelivered[where] += 1
            self._dead.keep(event, where, reason, tried.get(id(event), 0))

    def passing(self, plugin: str) -> bool:
        """Return whether events wait for their lanes, or for being published by a plugin."""
        if self._moving or not self.queue.empty():
            return True
        return any(not lane.idle for lane in self.lanes.values() if lane.key.plugin == plugin)

    def relaying(self) -> Tracker:
        """Return what takes deliveries from outside.

        :raises BusStopped: the bus takes nothing any more.
        """
        if self._tracker is None or self.state is not BusState.RUNNING:
            raise BusStopped
        return self._tracker

    async def relayed(self, seconds: float) -> None:
        """Return when every delivery that was relayed is settled, at the latest after ``seconds``."""
        if self._tracker is not None and not self.hurried:
            await self._tracker.wait_idle(seconds)

    async def _drain(self, patience: Patience) -> None:
        for lane in self.lanes.values():
            lane.on_idle = self._check_idle
        while not self.hurried and not self._is_idle() and (left := patience.left()):
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=min(left, STEP) if patience.steady else left)
        self._idle = None
        # At once: what were put from here on could not be delivered.
        self.broker.refusal = BusStopped

    def _is_idle(self) -> bool:
        if (self._callback is not None and self._callback.busy) or not self.queue.empty():
            return False
        if self._busy is None or self._busy.idle:
            # The last, as the first are the first to be idle: lanes are not looked at again and again.
            lanes = reversed(self.lanes.values())
            self._busy = next((lane for lane in lanes if not lane.idle), None)
        return self._busy is None

    def _check_idle(self) -> None:
        if self._idle is not None and self._is_idle():
            resolve(self._idle)

    async def _shutdown(self, plan: RunPlan, dead: DeadLetters, started: bool) -> None:
        if self.state is not BusState.DRAINING:
            self._stopped_at = time.monotonic()
        patience = self.patience()
        try:
            if started:
                self.broker.refusal = BusStopped
                await self._end_lanes(dead, patience)
                while not self.queue.empty():
                    # Put by threads that were let in before.
                    await self._end_lanes(dead, patience)
            if self._callback is not None:
                await self._within(patience, [self._callback.wait(None)])
            closing = [lane.sender.close(CLOSE_TIMEOUT) for lane in plan.lanes]
            await self._within(patience, closing)
            moment = CUT_SHORT_TIMEOUT if self.hurried else patience.grace(CLOSE_TIMEOUT)
            if self._callback is not None:
                await self._callback.close(moment)
            await dead.close(moment)
        finally:
            self.report = self._account(plan, dead)
            if self.report.undelivered or self.report.lost:
                log.error("%s", self.report)
            self._tracker = None
            if self._callback is not None:
                self._observers.remove(self._callback)
                self._callback = None
            if started:
                self._become(BusState.STOPPED)
            self._release()
            if self._ended is not None:
                resolve(self._ended)

    def _account(self, plan: RunPlan, dead: DeadLetters) -> Report:
        """Return the report of a run."""
        store = plan.dead_store
        seconds = time.monotonic() - self._stopped_at if self._stopped_at else 0.0
        unmatched = dict(self._router.unmatched) if self._router is not None else {}
        return Report(
            dict(self._undelivered),
            str(store.path),
            seconds,
            dead.died,
            store.lost,
            store.last_error,
            unmatched,
            self._router.hint(next(iter(unmatched))) if self._router is not None and unmatched else "",
            plan.unheard(),
        )

    async def _end_lanes(self, dead: DeadLetters, patience: Patience) -> None:
        """Move what is queued to the lanes, end them, and record what they did not deliver."""
        while not self.queue.empty():
            self._feed()
        self.queue.listen(None)
        self.queue.wake(everyone=True)
        # A lane that ended takes no dead letters.
        dead.router = None
        workers = {name: lane.cancel() for name, lane in self.lanes.items()}
        await self._within(patience, [task for tasks in workers.values() for task in tasks])
        for name, lane in self.lanes.items():
            if not all(task.done() for task in workers[name]):
                log.error("lane %s: the plugin's publish does not end when it is cancelled", lane.key)
            self._dead_letter_rest(name, lane, dead)

    def _dead_letter_rest(self, name: str, lane: Lane, dead: DeadLetters) -> None:
        """Close a lane, and record what it did not deliver."""
        reason = f"{LEFT}: {lane.last_error}" if lane.last_error else LEFT
        left = lane.close()
        self._undelivered.update({name: len(left)} if left else {})
        for event, attempts in left:
            dead.keep(event, str(lane.key), reason, attempts, lane.key)

    def record_undelivered(self) -> Report | None:
        """Record what is not delivered, from another thread, as the loop does not get round to it.

        Returns what to report, None when it cannot be had. What a plugin delivers meanwhile is recorded too.
        Nothing is logged: the loop's thread may stand while it does, and hold the lock of a handler.
        """
        plan, dead, router = self._plan, self._dead, self._router
        if (
            plan is None
            or dead is None
            or router is None
            or not self.queue.lock.acquire(timeout=LOCK_TIMEOUT)
        ):
            return None
        dead.muted = True
        self._callback = None
        try:
            self.broker.refusal = BusStopped
            while not self.queue.empty():
                self._move(router)
            for name, lane in self.lanes.items():
                self._dead_letter_rest(name, lane, dead)
        finally:
            self.queue.lock.release()
        plan.dead_store.flush_in_time()
        return self._account(plan, dead)

    async def _within(self, patience: Patience, waiting: Iterable[Awaitable[Any]]) -> None:
        if self._cut_short is not None:
            await within(patience.grace(CLOSE_TIMEOUT), waiting, self._cut_short, CUT_SHORT_TIMEOUT)

    # Looking in

    def snapshot(self) -> dict[str, Any]:
        """Return all counters, taken at one moment; see ``hub.evbus.stats.snapshot``."""
        with self.queue.lock:
            store = self._plan.dead_store if self._plan is not None else None
            counts = self.queue.counts()
            counts["queued"] += self._moving
            return {
                "state": self.state.value,
                "bus": counts,
                "lanes": {name: lane.snapshot() for name, lane in self.lanes.items()},
                "dead_store": store.snapshot() if store else NO_STORE,
            }
