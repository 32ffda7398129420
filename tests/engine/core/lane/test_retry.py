"""What is tried again, when, and what is given up."""

from __future__ import annotations

from typing import Any

import pytest

from evbus.engine.core.lane.retry import blamed, sort, without
from evbus.errors import ConnectionLost, Rejected, Unavailable
from evbus.types import Envelope

A, B, C = (Envelope("p", name, name.encode()) for name in "abc")
FAILED, REFUSED, DOWN = ValueError("x"), Rejected("never"), Unavailable("down", retry_after=7.0)
BROKE, BROKE_ALONE = ConnectionLost("broke", alone=False), ConnectionLost("broke", alone=True)


def test_each_outcome_is_told_apart() -> None:
    found = sort([A, B, C, A], [0, 1, 1, 0], [None, FAILED, REFUSED, DOWN], 10)
    assert found.delivered == [A]
    assert [(entry.event, entry.reason, entry.attempts) for entry in found.dead] == [(C, REFUSED, 2)]
    assert (found.again, found.tries, found.wait) == ([B, A], [2, 0], 7.0)


@pytest.mark.parametrize(
    ("most", "tried", "dies"), [(3, 1, False), (3, 2, True), (1, 0, True), (0, 10_000, False)]
)
def test_an_event_dies_with_its_last_try(most: int, tried: int, dies: bool) -> None:
    found = sort([A], [tried], [FAILED], most)
    assert (len(found.dead), found.tries) == (dies, [] if dies else [tried + 1])


def test_the_pause_is_that_of_the_retries_within_what_destinations_ask_for() -> None:
    deciding = Unavailable("moved", retry_within=0.5)
    pauses = [
        [sort([A, B], [0, 0], outcomes, 10).pause(seconds) for seconds in (0.1, 3.0, 30.0)]
        for outcomes in (
            [FAILED, None],
            [DOWN, FAILED],
            [deciding, None],
            [deciding, DOWN],
            [deciding, FAILED],
        )
    ]
    whole = [0.1, 3.0, 30.0]  # of an attempt that counts, too
    assert pauses == [whole, [7.0, 7.0, 30.0], [0.1, 0.5, 0.5], [7.0, 7.0, 7.0], whole]


def test_a_destination_that_is_down_costs_no_try() -> None:
    found = sort([A], [2], [Unavailable("x", retry_after=None)], 3)  # type: ignore[arg-type]
    assert (found.dead, found.tries, found.wait) == ([], [2], 0.0)


@pytest.mark.parametrize("outcome", [FAILED, REFUSED])
@pytest.mark.parametrize(("most", "tried", "left"), [(10, 0, 1), (1, 0, 0), (3, 2, 2), (0, 5, 6)])
def test_nothing_dies_for_what_failed_as_one(outcome: Any, most: int, tried: int, left: int) -> None:
    found = sort([A, B], [tried] * 2, [outcome] * 2, most, spare=frozenset({id(outcome)}))
    assert (found.dead, found.again, found.tries) == ([], [A, B], [left, left])


def test_what_was_not_tried_stays_as_it_was() -> None:
    found = sort([A, B, C], [1, 2, 3], [FAILED], 10)
    assert (found.again, found.tries) == ([A, B, C], [2, 2, 3])


@pytest.mark.parametrize(
    ("outcomes", "again", "found"),
    [
        ([FAILED, FAILED], False, {FAILED}),
        ([REFUSED, None, REFUSED], False, {REFUSED}),
        ([REFUSED, FAILED, FAILED], False, {FAILED}),
        ([FAILED, ValueError("x")], False, set()),
        ([None, FAILED], False, set()),
        ([DOWN, DOWN], True, set()),
        ([FAILED], False, set()),
        ([BROKE, BROKE], False, set()),
        ([BROKE, None, BROKE], True, {BROKE}),
        ([DOWN, BROKE], True, set()),
    ],
)
def test_an_error_that_stands_for_several_events_is_known(outcomes: Any, again: bool, found: Any) -> None:
    assert blamed(outcomes, broke=again) == {id(each) for each in found}


def test_only_a_break_that_finds_an_event_alone_and_is_not_the_first_is_an_attempt() -> None:
    for outcome, again in ((BROKE, False), (BROKE, True), (BROKE_ALONE, False)):
        found = sort([A], [1], [outcome], 2, broke=again)
        assert (found.dead, found.again, found.tries) == ([], [A], [1])
    found = sort([A], [1], [BROKE_ALONE], 2, broke=True)
    assert [(entry.event, entry.reason, entry.attempts) for entry in found.dead] == [(A, BROKE_ALONE, 2)]


@pytest.mark.parametrize(
    ("gone", "left"), [([], "abc"), ([A], "bc"), ([A, B], "c"), ([B], "ac"), ([C, A], "b"), ([A, B, C], "")]
)
def test_events_are_taken_out(gone: list[Envelope], left: str) -> None:
    assert "".join(event.routing_key for event in without([A, B, C], gone)) == left


def test_equal_events_are_not_confused() -> None:
    first, second = Envelope("p", "k", b"same"), Envelope("p", "k", b"same")
    (left,) = without([first, second], [second])
    assert left is first
