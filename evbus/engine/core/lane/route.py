"""From the profile of an event to the lanes that get it: matched once per name, then looked up."""

from __future__ import annotations

import bisect
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from evbus.engine.core.lane.lane import Lane
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.weight import size_of
from evbus.errors import nearest
from evbus.types import Envelope

__all__ = ["Destination", "LaneRouter", "Patterns", "Totals"]

log = logging.getLogger("evbus.route")

#: Names whose lanes are remembered. An application that makes up profile names must not fill memory.
CACHE_NAMES = 10_000
#: Names that nothing matched and whose events are counted, for the report.
UNMATCHED_NAMES = 100
#: What the others are counted under.
OTHERS = "..."
#: Profiles that a name which matches none is compared with, as that takes 30 us: so many of those that begin
#: like it, and of those that end like it.
NEAR = 20

#: ``find(name, pattern)`` of a matcher.
Find = Callable[[str, str], bool]
#: ``ends(pattern)`` of a matcher, see :mod:`evbus.match.contracts.init`.
Ends = Callable[[str], tuple[str, str]]


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


class Patterns:
    """Patterns, of which few have to be asked whether they match a name: those that begin and end as it does.

    :param ends: None for a matcher that does not tell, which is asked about all of them.
    """

    def __init__(self, patterns: Sequence[str], find: Find, ends: Ends | None) -> None:
        self._patterns = patterns
        self._find = find
        # By how long their ends are, and by these; at the bottom are places.
        self._places: dict[tuple[int, int], dict[tuple[str, str], list[int]]] = {}
        for place, pattern in enumerate(patterns):
            first, last = _ends(ends, pattern)
            alike = self._places.setdefault((len(first), len(last)), {})
            alike.setdefault((first, last), []).append(place)

    def matching(self, name: str) -> list[int]:
        """Return the places of those that a name matches, in their order."""
        size, found = len(name), list[int]()
        for (first, last), places in self._places.items():
            if first + last <= size:
                found += places.get((name[:first], name[size - last :]), ())
        return [place for place in sorted(found) if self._matches(name, self._patterns[place])]

    def _matches(self, name: str, pattern: str) -> bool:
        try:
            return bool(self._find(name, pattern))
        except Exception:
            # A matcher of somebody's own. The event still goes to all others.
            log.exception("the matcher failed for %s", one_line(repr(name)))
            return False


def _ends(ends: Ends | None, pattern: str) -> tuple[str, str]:
    try:
        return ("", "") if ends is None else ends(pattern)
    except Exception:
        log.exception("the matcher failed for the pattern %s", one_line(repr(pattern)))
        return "", ""


class LaneRouter:
    """Hand events to every lane whose pattern matches.

    :param destinations: in the order in which lanes get an event.
    :param find: ``find(name, pattern)`` of the matcher.
    :param totals: where events are counted.
    :param ends: see :class:`Patterns`.
    :ivar unmatched: how many events no profile matched in this run, by the name of theirs.
    """

    def __init__(
        self,
        destinations: Sequence[Destination],
        find: Find,
        totals: Totals,
        ends: Ends | None = None,
    ) -> None:
        self.unmatched: Counter[str] = Counter()
        self._totals = totals
        self._lanes = [lane for _, lane in destinations]
        self._by_pattern: dict[str, list[Lane]] = {}
        for pattern, lane in destinations:
            self._by_pattern.setdefault(pattern, []).append(lane)
        self._names = sorted(self._by_pattern)
        self._backwards = sorted(name[::-1] for name in self._names)
        self._patterns = Patterns([pattern for pattern, _ in destinations], find, ends)
        self._cache: dict[str, tuple[Lane, ...]] = {}

    def lanes(self, profile: str) -> tuple[Lane, ...]:
        """Return the lanes that an event with this profile goes to, and remember them."""
        found = self._cache.get(profile)
        if found is None:
            found = tuple(self._lanes[place] for place in self._patterns.matching(profile))
            while len(self._cache) >= CACHE_NAMES:
                self._cache.pop(next(iter(self._cache)))
            self._cache[profile] = found
            if not found:
                self._report(profile)
        return found

    def named(self, profile: str) -> list[Lane]:
        """Return the lanes of this very pattern: what comes in through one has that as its profile."""
        return self._by_pattern.get(profile, [])

    def _report(self, profile: str) -> None:
        log.warning(
            "no profile matches %s: its events go nowhere%s", one_line(repr(profile)), self.hint(profile)
        )

    def hint(self, profile: str) -> str:
        """Suggest the profile that may be meant by a name that matches none."""
        names = self._names
        if len(names) > 2 * NEAR:
            ends = [name[::-1] for name in _near(self._backwards, profile[::-1])]
            names = [*_near(names, profile), *ends]
        return nearest(profile, names) or "; no profiles are configured"

    def _miss(self, profile: str, count: int) -> None:
        """Count events that go nowhere. Needs the queue's lock."""
        self._totals.unmatched += count
        known = profile in self.unmatched or len(self.unmatched) < UNMATCHED_NAMES
        self.unmatched[profile if known else OTHERS] += count

    def dispatch(self, events: list[Envelope]) -> tuple[dict[Lane, None], list[Envelope]]:
        """Offer ``events`` to their lanes, up to the first whose lanes are not known. Needs the queue's lock.

        Returns the lanes whose :meth:`~Lane.deliver_now` should be called once the lock is released, each
        once, and the events that are left. Call :meth:`lanes` for the first of them, without the lock since
        it runs the matcher and logs, and then this again.
        """
        ready: dict[Lane, None] = {}
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
                    if lane.offer(run, size):
                        ready[lane] = None
            else:
                self._miss(profile, len(run))
            start = end
        return ready, []


def _near(names: list[str], name: str) -> list[str]:
    """Return those of sorted names that stand around ``name``."""
    first = max(0, bisect.bisect(names, name) - NEAR // 2)
    return names[first : first + NEAR]
