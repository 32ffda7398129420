"""Whatever listeners do: each group has each event handled once or as a dead letter, in order of its key."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.handling.events.declare import event
from evbus.errors import Rejected
from tests.evbus.kit import running
from tests.event.kit import go, new_hub, send

ATTEMPTS = 3


@event()
@dataclasses.dataclass
class Numbered:
    number: int
    key: str
    #: For each group what its handling does, attempt by attempt; well afterwards.
    plan: dict[str, list[str]]


class Member(NamedTuple):
    group: str
    plain: bool
    concurrency: int
    prefetch: int
    keyed: bool


FATES = st.sampled_from(["fail", "reject", "cancel", "cut", "wait", "well"])
MEMBERS = st.lists(
    st.builds(
        Member,
        group=st.sampled_from("ab"),
        plain=st.booleans(),
        concurrency=st.integers(1, 4),
        prefetch=st.integers(0, 3),
        keyed=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from("xyz"),
        st.fixed_dictionaries({"a": st.lists(FATES, max_size=4), "b": st.lists(FATES, max_size=4)}),
    ),
    max_size=12,
)


class World:
    """What was handled, by group."""

    def __init__(self) -> None:
        self.well: dict[str, list[Numbered]] = defaultdict(list)
        self.calls: Counter[tuple[str, int]] = Counter()

    def step(self, group: str, event: Numbered) -> str:
        """Return what happens to this attempt."""
        index = self.calls[group, event.number]
        self.calls[group, event.number] += 1
        plan = event.plan[group]
        fate = plan[index] if index < len(plan) else "well"
        if fate == "fail":
            raise KeyError(event.number)
        if fate == "reject":
            raise Rejected(str(event.number))
        return fate

    def listener(self, member: Member) -> Any:
        def plain(event: Numbered) -> None:
            if self.step(member.group, event) in ("cancel", "cut"):
                raise asyncio.CancelledError
            self.well[member.group].append(event)

        async def asynchronous(event: Numbered) -> None:
            fate = self.step(member.group, event)
            if fate == "cancel":
                raise asyncio.CancelledError
            if fate == "cut":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            if fate == "wait":
                await asyncio.sleep(0)
            self.well[member.group].append(event)

        return plain if member.plain else asynchronous


def expected(plan: list[str]) -> bool:
    """Return whether an event with such a plan is handled well in the end, and is no dead letter."""
    failures = 0
    for fate in plan:
        if fate == "reject":
            return False
        failures += fate in ("fail", "cancel", "cut")
        if failures == ATTEMPTS:
            return False
        if fate in ("wait", "well"):
            return True
    return True


@settings(max_examples=25, deadline=None)
@given(members=MEMBERS, events=EVENTS, early=st.integers(0, 12))
def test_each_group_handles_each_event_once(
    members: list[Member], events: list[tuple[str, dict[str, list[str]]]], early: int
) -> None:
    sent = [Numbered(number, key, plan) for number, (key, plan) in enumerate(events)]
    world = World()

    async def main(store: Path) -> None:
        hub = new_hub(dead_store=str(store))
        for number, member in enumerate(members):
            hub.event.init.subscribe(
                Numbered,
                world.listener(member),
                name=f"{member.group}{number}",
                group=member.group,
                concurrency=member.concurrency,
                prefetch=member.prefetch,
                key="key" if member.keyed else None,
                retry={"attempts": ATTEMPTS, "min": 1e-9, "max": 1e-9},
            )
        await send(hub, *(sent[:early]))
        async with running(hub, {"internal": {"*": {}}}):
            await send(hub, *(sent[early:]))

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "dead.jsonl"
        go(lambda: main(store))
        lines = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []

    groups = {member.group for member in members}
    dead = Counter((line["dead"]["lane"].split()[1][0], line["body"]["number"]) for line in lines)
    for group in groups:
        well = Counter(each.number for each in world.well[group])
        for each in sent:
            handled = expected(each.plan[group])
            assert well[each.number] == handled, (group, each)
            assert dead[group, each.number] == (not handled), (group, each)
    assert {group for group, _ in dead} <= groups
    for group in groups:
        own = [member for member in members if member.group == group]
        assert_in_order(world.well[group], own, sent)


def assert_in_order(handled: list[Numbered], own: list[Member], sent: list[Numbered]) -> None:
    """Check the order of a group with one member: by key, or of all when it handles one at a time.

    What had its task cancelled is tried again behind others.
    """
    if len(own) > 1 or any("cut" in fates for each in sent for fates in each.plan.values()):
        return
    (member,) = own
    if member.concurrency == 1:
        assert [each.number for each in handled] == sorted(each.number for each in handled)
    elif member.keyed:
        for key in "xyz":
            numbers = [each.number for each in handled if each.key == key]
            assert numbers == sorted(numbers)


@settings(max_examples=25, deadline=None)
@given(
    members=st.lists(
        st.builds(
            Member,
            st.sampled_from("ab"),
            st.just(value=False),
            st.integers(1, 4),
            st.integers(0, 3),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    hanging=st.lists(st.booleans(), max_size=12),
    durable=st.booleans(),
)
def test_when_the_bus_stops_too_soon_each_group_has_handled_an_event_or_left_it_in_the_dead_store(
    members: list[Member], hanging: list[bool], durable: bool
) -> None:
    handled: Counter[tuple[str, int]] = Counter()

    def listener(group: str) -> Any:
        async def on(event: Numbered) -> None:
            if hanging[event.number]:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            handled[group, event.number] += 1

        return on

    async def main(store: Path) -> None:
        hub = new_hub(dead_store=str(store), drain_timeout=0.01)
        for number, member in enumerate(members):
            hub.event.init.subscribe(
                Numbered,
                listener(member.group),
                name=f"{member.group}{number}",
                group=member.group,
                concurrency=member.concurrency,
                prefetch=member.prefetch,
                key="key" if member.keyed else None,
                durable=durable,
            )
        async with running(hub, {"internal": {"*": {}}}):
            await send(hub, *(Numbered(number, "xyz"[number % 3], {}) for number in range(len(hanging))))

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "dead.jsonl"
        go(lambda: main(store))
        lines = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    groups = {member.group for member in members}
    dead = Counter(line["body"]["number"] for line in lines)
    for number in range(len(hanging)):
        done = sum(handled[group, number] for group in groups)
        assert done + dead[number] == len(groups), (number, done, dead[number])
        assert all(handled[group, number] <= 1 for group in groups)
