"""Nothing disappears: ``accepted = delivered + dead + dropped + queued``, at every moment, whatever happens.

Programs are made up. After every step the counters have to add up, and at the end every accepted event is
looked for where it has to be: in what destinations say that they got, and in the file of the dead store.
"""

from __future__ import annotations

import asyncio
import fnmatch
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evbus.engine.core.settings import DeliverySettings, Retry
from evbus.errors import BusFull, BusStopped, Rejected, Unavailable
from tests.evbus.rig import HANG, Rig, Target, turns

PROFILES = ["a", "b", "ab", "none"]
PATTERNS = ["a", "b", "a*", "*", "dead"]


class Shaky(Target):
    """Every event of a batch has an outcome of its own, or the call has one."""

    def next(self, what: str, seed: int) -> Any:
        async def mixed(events: Any) -> list[Any]:
            kinds = [
                None,
                ValueError("again"),
                Rejected("never"),
                Unavailable("down"),
                asyncio.CancelledError(),
            ]
            return [kinds[(seed + index) % len(kinds)] for index in range(len(events))]

        async def short(events: Any) -> list[Any]:
            return []

        async def slow(events: Any) -> list[Any]:
            await turns(seed % 7)
            return [None] * len(events)

        async def slow_to_fail(events: Any) -> list[Any]:
            await turns(seed % 7)
            return await mixed(events)

        return {
            "ok": None,
            "fail": ValueError("again"),
            "refuse": Rejected("never"),
            "down": Unavailable("down"),
            "cancel": asyncio.CancelledError(),
            "hang": HANG,
            "mixed": mixed,
            "short": short,
            "slow": slow,
            "slow to fail": slow_to_fail,
        }[what]


OUTCOMES = st.sampled_from(
    ["ok", "fail", "refuse", "down", "cancel", "hang", "mixed", "short", "slow", "slow to fail"]
)

lanes = st.fixed_dictionaries(
    {
        "pattern": st.sampled_from(PATTERNS),
        "batching": st.booleans(),
        "overlap": st.booleans(),
        "now": st.sampled_from([None, None, "takes", "refuses"]),
        "buffer": st.integers(1, 5),
        "batch": st.integers(1, 4),
        "concurrency": st.integers(1, 3),
        "on_full": st.sampled_from(["block", "drop_oldest"]),
        "dead_letter": st.sampled_from([None, "dead", "a"]),
        "attempts": st.integers(1, 3),
        "timeout": st.sampled_from([0.0, 1e-4]),
    }
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(PROFILES), st.integers(1, 4)),
        st.tuples(st.just("wait"), st.sampled_from(PROFILES), st.integers(1, 3)),
        st.tuples(st.just("outcome"), st.integers(0, 3), OUTCOMES),
        st.tuples(st.just("turn"), st.integers(1, 8), st.none()),
        st.tuples(st.just("release"), st.integers(0, 3), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 3), st.none()),
        st.tuples(st.just("get"), st.none(), st.none()),
    ),
    max_size=40,
)

programs = st.fixed_dictionaries(
    {
        "lanes": st.lists(lanes, min_size=1, max_size=4),
        "limit": st.integers(0, 5),
        "policy": st.sampled_from(["raise", "drop_oldest", "drop_newest"]),
        "before": st.integers(0, 3),
        "steps": steps,
        "patient": st.booleans(),
    }
)


class Run:
    """One program on one bus."""

    def __init__(self, folder: Path, program: Any) -> None:
        self.program = program
        self.rig = Rig(
            folder, queue_limit=program["limit"], full_policy=program["policy"], drain_timeout=0.005
        )
        self.targets: list[Shaky] = []
        self.accepted: dict[bytes, str] = {}
        self.got: list[bytes] = []
        self.waiting: list[asyncio.Task[None]] = []
        self.serial = 0
        for lane in program["lanes"]:
            self.targets.append(self.target(lane))

    def target(self, lane: Any) -> Shaky:
        target = Shaky(batching=lane["batching"], overlap=lane["overlap"])

        def publish_nowait(_ctx: Any, events: Any) -> None:
            if lane["now"] == "refuses" or target.plan:
                raise asyncio.QueueFull
            target.got += [event.body for event in events]
            target.letters += events

        delivery = DeliverySettings(
            batch=lane["batch"],
            buffer=lane["buffer"],
            concurrency=lane["concurrency"],
            on_full=lane["on_full"],
            dead_letter=lane["dead_letter"],
            retry=Retry(attempts=lane["attempts"], min=1e-9, max=1e-9),
        )
        now = publish_nowait if lane["now"] else None
        self.rig.add(target, lane["pattern"], delivery, publish_nowait=now, timeout=lane["timeout"])
        return target

    def body(self) -> bytes:
        self.serial += 1
        return b"%d" % self.serial

    def put(self, profile: str, count: int) -> None:
        for _ in range(count):
            body = self.body()
            try:
                self.rig.put_nowait(body, profile)
            except (BusFull, BusStopped):
                continue
            self.accepted[body] = profile

    async def put_waiting(self, profile: str, body: bytes) -> None:
        try:
            await self.rig.put(body, profile)
        except BusStopped:
            return
        self.accepted[body] = profile

    async def step(self, what: str, first: Any, second: Any) -> None:
        if what == "put":
            self.put(first, second)
        elif what == "wait":
            for _ in range(second):
                self.waiting.append(asyncio.ensure_future(self.put_waiting(first, self.body())))
        elif what == "turn":
            for _ in range(first):
                await turns(1)
                self.rig.check()
        elif what == "get":
            with self.rig.queue.lock:
                taken = self.rig.queue.take(1)
                self.rig.queue.got += len(taken)
            self.got += [event.body for event in taken]
        elif what == "cancel":
            if first < len(self.waiting):
                self.waiting[first].cancel()
        elif first < len(self.targets):
            target = self.targets[first]
            if what == "outcome":
                target.plan.append(target.next(second, self.serial))
            else:
                target.release.set()
                target.release = asyncio.Event()
        self.rig.check()

    async def run(self) -> None:
        self.put("a", self.program["before"])
        async with self.rig.running():
            for step in self.program["steps"]:
                await self.step(*step)
            if self.program["patient"]:
                for target in self.targets:
                    target.plan.clear()
                    target.release.set()
            stop = asyncio.ensure_future(self.rig.bus.stop())
            while not stop.done():
                await turns(1)
                self.rig.check()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        found = self.rig.check()
        assert found["bus"]["queued"] == found["bus"]["held"] == 0
        for lane in found["lanes"].values():
            assert lane["queued"] == lane["in_flight"] == 0
        assert self.rig.queue.held_size == 0

    def reached(self) -> list[Counter[bytes]]:
        """Return for each lane the events it confirmed, or that are recorded to have died in it."""
        names = list(self.rig.bus.lanes)
        ended = [
            Counter(letter.body for letter in target.letters if not own(letter)) for target in self.targets
        ]
        for record in self.rig.dead():
            body = record.envelope().body
            where = record.headers.get("evbus-dead-lane", record.dead["lane"])
            ended[names.index(where)][body] += 1
        for target in self.targets:
            for letter in target.letters:
                if own(letter):
                    ended[names.index(letter.headers["evbus-dead-lane"])][letter.body] += 1
        return ended

    def judge(self) -> None:
        bus = self.rig.check()["bus"]
        assert bus["accepted"] == len(self.accepted) or self.program["policy"] != "raise"
        lost_by_policy = bus["dropped"]
        # A letter that a lane drops is counted there, and misses the lane in which the event died.
        dropped_letters = sum(lane["dropped"] for lane in self.rig.check()["lanes"].values())
        for index, (lane, found) in enumerate(zip(self.program["lanes"], self.reached())):  # noqa: B905
            expected = {
                body
                for body, profile in self.accepted.items()
                if fnmatch.fnmatchcase(profile, lane["pattern"]) and body not in self.got
            }
            assert set(found) <= expected, f"invented in lane {index}"
            missing = len(expected - set(found))
            if lost_by_policy or any(other["dead_letter"] for other in self.program["lanes"]):
                assert missing <= lost_by_policy + dropped_letters, f"lost in lane {index}"
            else:
                dropped = list(self.rig.bus.lanes.values())[index].counters.dropped
                assert missing == dropped, f"lost in lane {index}"


def own(letter: Any) -> bool:
    return "evbus-dead-lane" in letter.headers


@given(programs)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_accepted_event_is_somewhere_at_every_moment_and_at_the_end(program: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), program)
        asyncio.run(run.run())
        run.judge()


@given(
    st.lists(
        st.tuples(st.integers(1, 30), OUTCOMES.filter(lambda o: o not in ("mixed", "hang", "slow to fail")))
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_lane_with_concurrency_one_keeps_the_order_of_put(plan: Any, batching: bool) -> None:
    async def main(folder: Path) -> None:
        rig, target = Rig(folder), Shaky(batching=batching)
        rig.add(target, delivery=DeliverySettings(batch=4, retry=Retry(attempts=3, min=1e-9, max=1e-9)))
        serial = 0
        async with rig.running():
            for count, outcome in plan:
                target.plan.append(target.next(outcome, 0))
                for _ in range(count):
                    serial += 1
                    await rig.put(serial)
                await turns(count % 5)
                rig.check()
            target.plan.clear()
        delivered = [int(body) for body in target.got]
        dead = [int(body) for body in rig.dead_lettered()]
        assert delivered == sorted(delivered)
        assert dead == sorted(dead)
        assert sorted(delivered + dead) == list(range(1, serial + 1))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


@given(
    st.lists(st.tuples(st.integers(1, 30), OUTCOMES.filter(lambda o: o != "hang"), st.integers(0, 30))),
    st.integers(1, 4),
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_overlapping_batches_begin_in_order_and_so_do_their_retries(plan: Any, batch: int) -> None:
    async def main(folder: Path) -> None:
        rig, target = Rig(folder), Shaky(batching=True, overlap=True)
        lane = rig.add(
            target, delivery=DeliverySettings(batch=batch, retry=Retry(attempts=3, min=1e-9, max=1e-9))
        )
        serial = 0
        async with rig.running():
            for count, outcome, seed in plan:
                target.plan.append(target.next(outcome, seed))
                for _ in range(count):
                    serial += 1
                    await rig.put(serial)
                for _ in range(seed % 5):
                    await turns(1)
                    rig.check()
                    assert lane.counters.in_flight <= 2 * batch
            target.plan.clear()
        delivered = [int(body) for body in target.got]
        dead = [int(body) for body in rig.dead_lettered()]
        assert sorted(delivered + dead) == list(range(1, serial + 1))
        first: dict[int, None] = {}
        for tried in target.tried:
            fresh = [int(body) for body in tried if int(body) not in first]
            first.update(dict.fromkeys(fresh))
            assert fresh == [int(body) for body in tried] or not fresh
            if not fresh:
                # Until it was dealt with, nothing new was sent.
                assert int(tried[0]) > len(first) - 2 * batch
        assert list(first) == list(range(1, serial + 1))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
