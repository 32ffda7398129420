"""What to try again, when, and what to give up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evbus.errors import Rejected, Unavailable
from evbus.types import Envelope

__all__ = ["Dead", "Outcome", "Sorted", "failed_as_one", "size_of", "sort", "without"]

Outcome = BaseException | None


class Dead(NamedTuple):
    """An event given up: why, and after how many tries."""

    event: Envelope
    reason: BaseException
    attempts: int


class Sorted(NamedTuple):
    """A round of publishing, taken apart.

    :ivar again: the events to try again, in order.
    :ivar tries: how often each of them was tried.
    :ivar wait: the least seconds until then that a destination asked for.
    """

    delivered: list[Envelope]
    dead: list[Dead]
    again: list[Envelope]
    tries: list[int]
    wait: float


def failed_as_one(events: Sequence[Envelope], outcomes: Sequence[Outcome]) -> bool:
    """Return whether a call failed as a whole, perhaps for the sake of a single event.

    Sent alone, that event is found and the others are delivered. A destination that is down for all of
    them is no such case.
    """
    first = outcomes[0]
    if len(events) < 2 or len(outcomes) < len(events) or isinstance(first, Unavailable):
        return False
    return all(outcome is first for outcome in outcomes)


def sort(
    events: Sequence[Envelope], tries: Sequence[int], outcomes: Sequence[Outcome], most: int, *, spare: bool
) -> Sorted:
    """Tell apart what was delivered, what is dead after ``most`` tries (0: never), and the rest.

    Outcomes may be missing at the end: those events were not tried. With ``spare`` nothing dies in this
    round: every event has a try of its own to come.
    """
    delivered: list[Envelope] = []
    dead: list[Dead] = []
    again: list[Envelope] = []
    counts: list[int] = []
    wait = 0.0
    for event, tried, outcome in zip(events, tries, outcomes):  # noqa: B905 - outcomes may be shorter
        if outcome is None:
            delivered.append(event)
            continue
        count = tried
        if isinstance(outcome, Unavailable):
            wait = max(wait, outcome.retry_after or 0.0)
        else:
            count += 1
            if spare:
                count = min(count, most - 1) if most else count
            elif isinstance(outcome, Rejected) or (most and count >= most):
                dead.append(Dead(event, outcome, count))
                continue
        again.append(event)
        counts.append(count)
    again.extend(events[len(outcomes) :])
    counts.extend(tries[len(outcomes) :])
    return Sorted(delivered, dead, again, counts, wait)


def without(events: list[Envelope], gone: Sequence[Envelope]) -> list[Envelope]:
    """Return ``events`` less those that are ``gone``, which are usually the first."""
    if all(event is first for event, first in zip(gone, events)):  # noqa: B905 - there are fewer gone
        return events[len(gone) :]
    ids = {id(event) for event in gone}
    return [event for event in events if id(event) not in ids]


def size_of(events: Sequence[Envelope]) -> int:
    """Return the bytes of all bodies."""
    return sum([len(event.body) for event in events])
