"""From an event's profile to its lanes."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import pytest

from evbus.engine.core.chunk import Meta, Run, runs
from evbus.engine.core.lane import route
from evbus.engine.core.lane.route import LaneRouter, Patterns
from evbus.engine.core.queue import Queue
from evbus.engine.kit.topics import ends, ends_of_expression, ends_of_glob, matches
from evbus.types import Envelope
from tests.counting import steps


class Lane:
    """What the router knows of a lane."""

    def __init__(self, immediate: bool = False) -> None:
        self.immediate = immediate
        self.got: list[str] = []
        self.size = 0

    def offer(self, events: list[Envelope], size: int) -> bool:
        self.got += [event.routing_key for event in events]
        self.size += size
        return self.immediate


def router(find: Any = None, **lanes: Lane) -> LaneRouter:
    destinations: Any = list(lanes.items())
    return LaneRouter(destinations, find or (lambda name, pattern: pattern in ("all", name)), Queue())


def events(*names: str) -> list[Run]:
    return runs([(Envelope(name, str(number), b"xx"), b"xx", 0.0) for number, name in enumerate(names)])


def dispatch(router: LaneRouter, left: list[Run]) -> list[Any]:
    """Dispatch as the bus does."""
    every: list[Any] = []
    while left:
        ready, left = router.dispatch(left)
        every += ready
        if left:
            router.route(left[0][0])
    return every


def test_every_matching_lane_gets_every_event_in_order() -> None:
    a, b, both = Lane(), Lane(), Lane()
    made = router(a=a, b=b, all=both)
    dispatch(made, events("a", "a", "b", "a", "x"))
    assert (a.got, b.got, both.got) == (["0", "1", "3"], ["2"], ["0", "1", "2", "3", "4"])
    assert (a.size, both.size) == (6, 10)
    assert (made._queue.routed, made._queue.unmatched) == (5, 0)


def test_unmatched_events_are_counted_and_each_name_is_logged_once_with_the_nearest(caplog: Any) -> None:
    made = router(orders=Lane())
    dispatch(made, events("order", "order", "orders", "order", "new\nline"))
    assert (made._queue.routed, made._queue.unmatched) == (1, 4)
    first, second = [record.message for record in caplog.records]
    assert first == "no profile matches 'order': its events go nowhere; did you mean 'orders'?"
    assert "\n" not in second
    assert made.unmatched == {"order": 3, "new\nline": 1}


def test_made_up_names_that_nothing_matches_are_counted_together(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(route, "UNMATCHED_NAMES", 2)
    made = router(orders=Lane())
    dispatch(made, events("a", "b", "c", "d", "a"))
    assert made.unmatched == {"a": 2, "b": 1, route.OTHERS: 2}


def test_dispatch_itself_asks_no_matcher_and_logs_nothing(caplog: Any) -> None:
    # It runs under a lock that log handlers of other threads may wait for.
    asked: list[str] = []
    made = router(lambda name, pattern: bool(asked.append(name)), a=Lane())
    left = events("a", "b")
    assert made.dispatch(left) == ({}, left)
    assert asked == []
    assert caplog.text == ""


def test_lanes_that_deliver_at_once_are_named_once() -> None:
    a, b = Lane(immediate=True), Lane()
    assert dispatch(router(a=a, all=b), []) == []
    made = router(a=a, all=b)
    made.lanes("a")
    made.lanes("b")
    assert made.dispatch(events("a", "b", "a")) == ({a: None}, [])


def test_a_name_is_matched_once() -> None:
    asked: list[str] = []
    made = router(lambda name, pattern: asked.append(name) or True, a=Lane())
    for _ in range(3):
        dispatch(made, events("x", "y", "x"))
    assert asked == ["x", "y"]


def test_what_has_found_its_lanes_when_it_was_put_is_not_looked_up_again() -> None:
    a, b = Lane(), Lane()
    first, second = router(a=a), router(a=b)
    meta = Meta("a", "k", {})
    first.route(meta)
    first._cache.clear()
    put = runs([(meta, b"xx", 0.0)] * 3)
    assert first.dispatch(put) == ({}, [])
    assert (a.got, a.size) == (["k"] * 3, 6)
    # Lanes of a run that has ended get nothing any more.
    assert second.dispatch(put) == ({}, put)
    dispatch(second, put)
    assert (len(a.got), len(b.got)) == (3, 3)


def test_made_up_names_do_not_fill_memory(monkeypatch: Any) -> None:
    monkeypatch.setattr(route, "CACHE_NAMES", 10)
    lane = Lane()
    made = router(all=lane)
    dispatch(made, events(*(f"name {number}" for number in range(100))))
    assert len(made._cache) == 10
    assert len(lane.got) == 100


@pytest.mark.parametrize("order", [("bad", "all"), ("all", "bad")])
def test_a_matcher_that_fails_keeps_no_event_from_the_others(order: Any, caplog: Any) -> None:
    def find(name: str, pattern: str) -> bool:
        if pattern == "bad":
            raise ValueError("boom")
        return True

    lanes = {name: Lane() for name in order}
    dispatch(router(find, **lanes), events("x", "x"))
    assert (lanes["all"].got, lanes["bad"].got) == (["0", "1"], [])
    assert "the matcher failed for 'x'" in caplog.text


# Growth


class Compared(Lane):
    """A lane that counts what it is compared with."""

    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return self is other

    __hash__ = object.__hash__


def test_a_lane_costs_no_more_when_there_are_many() -> None:
    def cost(lanes: int) -> float:
        made = router(**{f"p{number}": Compared(immediate=True) for number in range(lanes)})
        dispatch(made, events(*(f"p{number}" for number in range(lanes))))
        left = events(*(f"p{number}" for number in range(lanes)))
        Compared.count = 0
        found = steps(lambda: made.dispatch(left))
        assert Compared.count == 0
        return found / lanes

    assert cost(1000) <= 1.5 * cost(100)


FINDS: dict[str, Any] = {
    "exact": (str.__eq__, lambda pattern: (pattern, "")),
    "glob": (fnmatch.fnmatchcase, ends_of_glob),
    "topic": (matches, ends),
    "regex": (lambda name, pattern: re.fullmatch(pattern, name) is not None, ends_of_expression),
}


@pytest.mark.parametrize(
    ("plugin", "pattern", "name"),
    [
        ("exact", "tenant-{}", "tenant-77"),
        ("glob", "tenant-{}", "tenant-77"),
        ("glob", "tenant-{}.*", "tenant-77.orders"),
        ("glob", "*.tenant-{}", "orders.tenant-77"),
        ("glob", "tenant.*.{}-x", "tenant.orders.77-x"),
        ("glob", "tenant-{}.[a-p]?", "tenant-77.or"),
        ("topic", "tenant.{}.*", "tenant.77.orders"),
        ("topic", "tenant.{}.#", "tenant.77"),
        ("topic", "#.{}", "77"),
        ("regex", r"tenant\.{}\..+", "tenant.77.orders"),
        ("regex", r".*\.tenant-{}", "orders.tenant-77"),
        ("regex", r"orders/{}(-eu)?", "orders/77-eu"),
    ],
)
def test_of_many_profiles_few_are_asked_whether_a_new_name_matches(
    plugin: str, pattern: str, name: str
) -> None:
    find, ends_of = FINDS[plugin]
    asked: list[str] = []
    patterns = [pattern.format(number) for number in range(10_000)]
    made = Patterns(patterns, lambda name, pattern: asked.append(pattern) or find(name, pattern), ends_of)
    assert made.matching(name) == [77]
    assert len(asked) <= 3


def test_a_matcher_that_does_not_tell_how_names_begin_is_asked_about_all() -> None:
    def broken(pattern: str) -> tuple[str, str]:
        raise ValueError(pattern)

    patterns = [f"*{number}" for number in range(20)]
    for ends_of in (None, lambda pattern: ("", ""), broken):
        assert Patterns(patterns, fnmatch.fnmatchcase, ends_of).matching("a1") == [1]


def test_a_name_that_nothing_matches_costs_no_more_among_ten_times_as_many_profiles(caplog: Any) -> None:
    def cost(profiles: int) -> int:
        destinations: Any = [(f"tenant-{number}", Lane()) for number in range(profiles)]
        made = LaneRouter(destinations, fnmatch.fnmatchcase, Queue(), ends_of_glob)
        return steps(lambda: made.lanes("x.tenant-77"))

    few, many = cost(1_000), cost(10_000)
    assert many <= 1.5 * few
    first, second = [record.message for record in caplog.records]
    assert (
        first
        == second
        == ("no profile matches 'x.tenant-77': its events go nowhere; did you mean 'tenant-77'?")
    )
