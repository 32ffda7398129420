"""The oracle itself: it has to see what is wrong."""

from __future__ import annotations

from tests.chaos._events import Event, body_of, event_of, tally

RUN = "run"
EVENTS = [Event(number, number % 2) for number in range(6)]
BODIES = [body_of(RUN, *event) for event in EVENTS]


def test_a_body_tells_its_event() -> None:
    assert event_of(RUN, body_of(RUN, 7, 3)) == Event(7, 3)
    assert event_of(RUN, body_of(RUN, 7, 3, 500)) == Event(7, 3)
    assert len(body_of(RUN, 7, 3, 500)) == 500


def test_all_is_well() -> None:
    found = tally(RUN, EVENTS, BODIES)
    assert (found.accepted, found.arrived) == (6, 6)
    assert found[2:] == (0, 0, 0, 0, 0)


def test_a_lost_event_is_missed() -> None:
    assert tally(RUN, EVENTS, BODIES[:-1]).lost == 1


def test_an_event_that_was_never_accepted_is_invented() -> None:
    assert tally(RUN, EVENTS[:-1], BODIES).invented == 1


def test_a_changed_byte_and_an_event_of_another_run_are_corrupted() -> None:
    changed = BODIES[0][:-1] + b"!"
    assert tally(RUN, EVENTS, [changed, *BODIES[1:]])[2:] == (1, 0, 1, 0, 0)
    assert tally(RUN, EVENTS, [*BODIES, body_of("other", 0, 0), b"\xff"]).corrupted == 2


def test_a_second_copy_is_a_duplicate_wherever_it_comes() -> None:
    found = tally(RUN, EVENTS, [*BODIES, *BODIES[:3]])
    assert (found.duplicates, found.lost, found.reordered) == (3, 0, 0)


def test_order_counts_within_a_key_and_not_between_keys() -> None:
    assert tally(RUN, EVENTS, [BODIES[1], BODIES[0], *BODIES[2:]]).reordered == 0
    assert tally(RUN, EVENTS, [BODIES[2], BODIES[0], BODIES[1], *BODIES[3:]]).reordered == 1
