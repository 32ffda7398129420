"""Random programs of messages that send messages: order, bounds, nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.engine.handling.handler import add_event
from evbus.errors import DeliveryError, DispatchDeadlock, DispatchTimeout
from tests.dispatch.rig import Paid, assert_empty, failures, new, turns, until, within

#: A time that is over at once.
NO_TIME = 1e-9


class Boom(Exception):
    """What handlers raise on purpose."""


@dataclass(frozen=True)
class Spec:
    """A message: of events, commands or queries; and what its handler does."""

    router: int
    key: int | None
    steps: tuple[tuple[Any, ...], ...]


@dataclass
class Job:
    number: int
    spec: Spec


class Event(Job):
    pass


class Command(Job):
    pass


class Query(Job):
    pass


KINDS: Any = (Event, Command, Query)

_routers = st.integers(0, 2)
_keys = st.sampled_from([None, None, 0, 1, 2])
_simple = st.one_of(
    st.tuples(st.just("turns"), st.integers(0, 4)),
    st.tuples(st.just("event")),
    st.tuples(st.just("fail")),
    st.tuples(st.just("cancelled")),
)


def _steps(specs: st.SearchStrategy[Spec]) -> st.SearchStrategy[tuple[Any, ...]]:
    step = st.one_of(
        _simple,
        st.tuples(st.just("call"), specs),
        st.tuples(st.just("call"), specs),
        st.tuples(st.just("call in time"), specs),
        st.tuples(st.just("send"), specs),
        st.tuples(st.just("detach"), specs),
        st.tuples(st.just("gather"), st.lists(specs, min_size=1, max_size=3)),
    )
    return st.lists(step, max_size=4).map(tuple)


def _spec(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[Spec]:
    return st.builds(Spec, _routers, _keys, steps)


specs = st.recursive(
    _spec(st.lists(_simple, max_size=2).map(tuple)), lambda inner: _spec(_steps(inner)), max_leaves=8
)
#: How a message is sent: whether it is waited for, whether it has no time, and when its caller is cancelled.
calls = st.tuples(
    specs, st.booleans(), st.sampled_from([False] * 5 + [True]), st.sampled_from([None] * 5 + [0, 2, 5])
)


class World:
    """Runs a program, and watches."""

    def __init__(self, workers: int) -> None:
        self.dispatcher = new(engine_workers=workers)
        self.workers = workers
        self.reported = failures(self.dispatcher)
        self.jobs: list[Job] = []
        self.waited: set[int] = set()
        self.timed: set[int] = set()
        self.raised: dict[int, BaseException] = {}
        self.begun: Counter[int] = Counter()
        self.succeeded: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.events: Counter[int] = Counter()
        self.paid: Counter[int] = Counter()
        self.sent: defaultdict[Any, list[int]] = defaultdict(list)
        self.order: defaultdict[Any, list[int]] = defaultdict(list)
        self.running: defaultdict[Any, list[int]] = defaultdict(list)
        self.roots: tuple[list[Invocation], ...] = ([], [], [])
        self.calling = 0
        self.cuts = 0
        for kind, router in zip(KINDS, self.dispatcher.routers, strict=True):
            router.bind(kind, self.handle, argname="job")
        self.dispatcher.events.bind(Event, self.also, argname="job")
        self.dispatcher.events.bind(Paid, self.on_paid, argname="paid")

    # What happens

    async def call(self, spec: Spec, *, wait: bool = True, in_time: bool = True) -> None:
        job = KINDS[spec.router](len(self.jobs), spec)
        self.jobs.append(job)
        if wait:
            self.waited.add(job.number)
        if not in_time:
            self.timed.add(job.number)
            self.cuts += 1
        if spec.key is not None:
            self.sent[spec.router, spec.key].append(job.number)
        router = self.dispatcher.routers[spec.router]
        self.calling += 1
        try:
            result = await router.handle(job, spec.key, wait, None if in_time else NO_TIME)
            if wait and spec.router:
                assert result == job.number
        except BaseException as exc:
            self.raised[job.number] = exc
            raise
        finally:
            self.calling -= 1

    async def detached(self, spec: Spec) -> None:
        await asyncio.gather(self.call(spec), return_exceptions=True)

    async def handle(self, job: Job) -> int:
        frame = self._begin(job)
        try:
            for step in job.spec.steps:
                await self._do(step, job)
                self._check_bound(job.spec.router)
        except BaseException:
            self.failed[job.number] += 1
            raise
        else:
            self.succeeded[job.number] += 1
        finally:
            self._end(job, frame)
        return job.number

    async def also(self, job: Job) -> None:
        frame = self._begin(job, main=False)
        try:
            await turns(job.number % 3)
        finally:
            self._end(job, frame)

    async def on_paid(self, paid: Paid) -> None:
        self.paid[paid.number] += 1

    async def _do(self, step: tuple[Any, ...], job: Job) -> None:
        what, *rest = step
        if what == "turns":
            await turns(rest[0])
        elif what == "event":
            self.events[job.number] += 1
            add_event(Paid(job.number))
        elif what == "fail":
            raise Boom
        elif what == "cancelled":
            raise asyncio.CancelledError
        elif what == "gather":
            await asyncio.gather(*(self.call(spec) for spec in rest[0]))
        elif what == "detach":
            self.tasks.append(asyncio.ensure_future(self.detached(rest[0])))
        elif what == "send":
            await self.call(rest[0], wait=False)
        else:
            try:
                await self.call(rest[0], in_time=what == "call")
            except (DispatchDeadlock, DispatchTimeout):
                if job.number % 2:
                    raise

    # What is watched

    def _begin(self, job: Job, *, main: bool = True) -> Invocation:
        place = job.spec.router, job.spec.key
        if job.spec.key is not None:
            assert set(self.running[place]) <= {job.number}, "two messages with one key at once"
            if main:
                self.order[place].append(job.number)
        self.running[place].append(job.number)
        self.begun[job.number] += main
        frame = CURRENT.get()
        assert frame is not None
        if frame.above is None:
            self.roots[job.spec.router].append(frame)
        self._check_bound(job.spec.router)
        return frame

    def _end(self, job: Job, frame: Invocation) -> None:
        self.running[job.spec.router, job.spec.key].remove(job.number)
        if frame.above is None:
            self.roots[job.spec.router].remove(frame)

    def _check_bound(self, router: int) -> None:
        running = {id(frame) for frame in self.roots[router] if not frame.away}
        # A call that was cut short does not wait for a slot.
        assert not self.workers or len(running) <= self.workers + self.cuts

    # The program

    async def run(self, program: list[Any]) -> None:
        before = asyncio.all_tasks()
        self.tasks: list[asyncio.Task[Any]] = []
        self.dispatcher.start()
        top = []
        for spec, wait, timed, cancel in program:
            task = asyncio.ensure_future(self.call(spec, wait=wait, in_time=not timed))
            top.append(task)
            if cancel is not None:
                self.cuts += 1
                await turns(cancel)
                task.cancel()
        await within(asyncio.gather(*top, return_exceptions=True))
        # What failed may have left some of what it gathered behind, and what was handed over runs still.
        await until(self._idle)
        report = await within(self.dispatcher.stop(1_000))
        assert report.unhandled == {}
        await turns(20)
        assert asyncio.all_tasks() <= before
        assert_empty(self.dispatcher)
        self.check()

    def _idle(self) -> bool:
        if self.calling or not all(task.done() for task in self.tasks):
            return False
        return all(router.idle(set()) for router in self.dispatcher.routers)

    def check(self) -> None:
        for place, order in self.order.items():
            numbers = [number for number in self.sent[place] if number in set(order)]
            known = set(self.sent[place])
            assert [number for number in order if number in known] == numbers, "out of order"
        reported = Counter(one.message.number for one in self.reported if isinstance(one.message, Job))
        for job in self.jobs:
            self._check(job, reported[job.number])
        expected = {number: count for number, count in self.events.items() if self.succeeded[number]}
        assert self.paid == Counter(expected)

    def _check(self, job: Job, reported: int) -> None:
        number = job.number
        ended = self.succeeded[number] + self.failed[number]
        assert ended == self.begun[number] <= 1
        problem = self.raised.get(number)
        if problem is not None:
            # A cancellation that nobody asked for is a DeliveryError to whoever waits.
            kinds = (Boom, DeliveryError, DispatchDeadlock, DispatchTimeout, asyncio.CancelledError)
            assert isinstance(problem, kinds), problem
            # Nobody else hears of it, but for what failed when nobody waited any longer, and second failures.
            assert reported <= 1 or number in self.timed
        elif number in self.waited:
            assert (self.succeeded[number], reported) == (1, 0)
        elif number in self.timed:
            assert self.begun[number] <= 1
            assert self.succeeded[number] or reported
        else:
            assert self.begun[number] == 1
            assert reported == self.failed[number]


@given(st.lists(calls, min_size=1, max_size=6), st.sampled_from([0, 1, 1, 2, 3]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_programs_of_messages(program: list[Any], workers: int) -> None:
    async def main() -> None:
        await World(workers).run(program)

    asyncio.run(main())


async def test_a_call_that_outlives_its_failed_handler_hangs_nobody() -> None:
    """What random programs once found: it kept its root's slot, the only one, and waited for another."""
    failing = Spec(router=2, key=1, steps=(("turns", 1), ("fail",)))
    siblings = [
        Spec(router=0, key=None, steps=()),
        Spec(router=2, key=1, steps=()),
        Spec(router=2, key=1, steps=(("cancelled",), ("turns", 2))),
    ]
    gathered = [
        Spec(router=0, key=None, steps=(("event",), ("event",))),
        Spec(router=2, key=None, steps=(("turns", 0), ("cancelled",))),
        Spec(router=0, key=None, steps=(("call", failing), ("gather", siblings), ("event",))),
    ]
    program = [
        (Spec(0, None, (("event",), ("turns", 0))), True, False, None),
        (Spec(2, None, (("gather", gathered),)), True, False, None),
    ]

    await within(World(1).run(program))
