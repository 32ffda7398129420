"""From the profile of an event to the lanes that get it: matched once per name, then looked up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evbus._weight import size_of
from evbus.errors import nearest
from evbus.redact import one_line
from evbus.types import Envelope

from ._lane import Lane

__all__ = ["Destination", "Router", "Totals"]

log = logging.getLogger("evbus.route")

#: Names whose lanes are remembered. An application that makes up profile names must not fill memory.
CACHE_NAMES = 10_000
#: Names that nothing matched and whose events are counted, for the report.
UNMATCHED_NAMES = 100
#: What the others are counted under.
OTHERS = "..."


class Totals:
    """Events that left the queue for lanes, those that no profile matched, and deliveries from outside.

    Kept across starts.
    """

    __slots__ = ("relayed", "routed", "unmatched")

    def __init__(self) -> None:
        self.routed = 0
        self.unmatched = 0
        self.relayed = 0

    def snapshot(self) -> dict[str, int]:
        """Return all of them by name."""
        return {"routed": self.routed, "unmatched": self.unmatched, "relayed": self.relayed}


class Destination(NamedTuple):
    """A lane and the pattern that an event's profile has to match."""

    pattern: str
    lane: Lane


class Router:
    """Hand events to every lane whose pattern matches.

    :param destinations: in the order in which lanes get an event.
    :param find: ``find(name, pattern)`` of the matcher.
    :param totals: where events are counted.
    :ivar unmatched: how many events no profile matched in this run, by the name of theirs.
    """

    def __init__(
        self, destinations: Sequence[Destination], find: Callable[[str, str], bool], totals: Totals
    ) -> None:
        self.unmatched: Counter[str] = Counter()
        self._totals = totals
        self._destinations = tuple(destinations)
        self._find = find
        self._cache: dict[str, tuple[Lane, ...]] = {}

    def lanes(self, profile: str) -> tuple[Lane, ...]:
        """Return the lanes that an event with this profile goes to, and remember them."""
        found = self._cache.get(profile)
        if found is None:
            found = tuple(lane for pattern, lane in self._destinations if self._matches(profile, pattern))
            while len(self._cache) >= CACHE_NAMES:
                self._cache.pop(next(iter(self._cache)))
            self._cache[profile] = found
            if not found:
                self._report(profile)
        return found

    def named(self, profile: str) -> list[Lane]:
        """Return the lanes of this very pattern: what comes in through one has that as its profile."""
        return [lane for pattern, lane in self._destinations if pattern == profile]

    def _matches(self, profile: str, pattern: str) -> bool:
        try:
            return bool(self._find(profile, pattern))
        except Exception:
            # A matcher of somebody's own. The event still goes to all others.
            log.exception("the matcher failed for %s", one_line(repr(profile)))
            return False

    def _report(self, profile: str) -> None:
        log.warning(
            "no profile matches %s: its events go nowhere%s", one_line(repr(profile)), self.hint(profile)
        )

    def hint(self, profile: str) -> str:
        """Return which profile may be meant by a name that matches none."""
        patterns = [pattern for pattern, _ in self._destinations]
        return nearest(profile, patterns) or "; no profiles are configured"

    def _miss(self, profile: str, count: int) -> None:
        """Count events that go nowhere. Needs the queue's lock."""
        self._totals.unmatched += count
        known = profile in self.unmatched or len(self.unmatched) < UNMATCHED_NAMES
        self.unmatched[profile if known else OTHERS] += count

    def dispatch(self, events: list[Envelope]) -> tuple[list[Lane], list[Envelope]]:
        """Offer ``events`` to their lanes, up to the first whose lanes are not known. Needs the queue's lock.

        Returns the lanes whose :meth:`~Lane.deliver_now` should be called once the lock is released, and the
        events that are left. Call :meth:`lanes` for the first of them, without the lock since it runs the
        matcher and logs, and then this again.
        """
        ready: list[Lane] = []
        count = len(events)
        start = 0
        while start < count:
            profile = events[start].profile
            lanes = self._cache.get(profile)
            if lanes is None:
                return ready, events[start:]
            end = start + 1
            while end < count and events[end].profile == profile:
                end += 1
            run = events if end - start == count else events[start:end]
            if lanes:
                self._totals.routed += len(run)
                size = size_of(run)
                for lane in lanes:
                    if lane.offer(run, size) and lane not in ready:
                        ready.append(lane)
            else:
                self._miss(profile, len(run))
            start = end
        return ready, []
