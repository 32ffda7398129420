"""Decisions about failed events: which are tried again, when, and which are given up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from evbus.errors import ConnectionLost, Unavailable, is_rejected
from evbus.types import Envelope

__all__ = ["DeadLetter", "Outcome", "Sorted", "blamed", "sort", "without"]

Outcome = BaseException | None


class DeadLetter(NamedTuple):
    """An event given up: why, and after how many tries."""

    event: Envelope
    reason: BaseException
    attempts: int


class Sorted(NamedTuple):
    """A round of publishing, taken apart.

    :ivar again: the events to try again, in order.
    :ivar tries: how often each of them was tried.
    :ivar wait: the least seconds until then that a destination asked for.
    :ivar within: the most of them, but for that.
    """

    delivered: list[Envelope]
    dead: list[DeadLetter]
    again: list[Envelope]
    tries: list[int]
    wait: float
    within: float

    def pause(self, seconds: float) -> float:
        """Return the seconds to wait in place of so many."""
        return max(self.wait, min(seconds, self.within))


def blamed(outcomes: Sequence[Outcome], *, broke: bool) -> frozenset[int]:
    """Return the identities of the errors that stand for several events, perhaps for the sake of one of them.

    Sent alone, that event is found and the others are delivered. A destination that is down for all of them
    is no such case; a connection that breaks again is one.

    :param broke: the connection broke the last time that these events were sent.
    """
    seen: set[int] = set()
    several: set[int] = set()
    for outcome in outcomes:
        if outcome is None or (
            isinstance(outcome, Unavailable) and not (broke and isinstance(outcome, ConnectionLost))
        ):
            continue
        (several if id(outcome) in seen else seen).add(id(outcome))
    return frozenset(several)


def sort(
    events: Sequence[Envelope],
    tries: Sequence[int],
    outcomes: Sequence[Outcome],
    most: int,
    *,
    spare: frozenset[int] = frozenset(),
    broke: bool = False,
) -> Sorted:
    """Tell apart what was delivered, what is dead after ``most`` tries (0: never), and the rest.

    Outcomes may be missing at the end: those events were not tried.

    :param spare: what :func:`blamed` returned: nobody dies of these in this round, as every event has a try
        of its own to come.
    :param broke: see :func:`blamed`.
    """
    delivered: list[Envelope] = []
    dead: list[DeadLetter] = []
    again: list[Envelope] = []
    counts: list[int] = []
    wait, within, hurried = 0.0, math.inf, True
    for event, tried, outcome in zip(events, tries, outcomes):  # noqa: B905 - outcomes may be shorter
        if outcome is None:
            delivered.append(event)
            continue
        count = tried
        if isinstance(outcome, Unavailable):
            wait = max(wait, outcome.retry_after or 0.0)
            within = min(within, outcome.retry_within)
        counted = _counts(outcome, broke=broke)
        if counted:
            count += 1
            if id(outcome) in spare:
                count = min(count, most - 1) if most else count
            elif is_rejected(outcome) or (most and count >= most):
                dead.append(DeadLetter(event, outcome, count))
                continue
        again.append(event)
        counts.append(count)
        hurried = hurried and not counted
    again.extend(events[len(outcomes) :])
    counts.extend(tries[len(outcomes) :])
    # An attempt that counts has its whole pause.
    return Sorted(delivered, dead, again, counts, wait, within if hurried else math.inf)


def _counts(outcome: BaseException, *, broke: bool) -> bool:
    """Return whether it is an attempt: a destination that is down costs none."""
    if isinstance(outcome, ConnectionLost):
        return broke and outcome.alone
    return not isinstance(outcome, Unavailable)


def without(events: list[Envelope], gone: Sequence[Envelope]) -> list[Envelope]:
    """Return ``events`` less those that are ``gone``, which are usually the first."""
    if all(event is first for event, first in zip(gone, events)):  # noqa: B905 - there are fewer gone
        return events[len(gone) :]
    ids = {id(event) for event in gone}
    return [event for event in events if id(event) not in ids]
