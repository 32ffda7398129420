"""From the profile of an event to the lanes that get it: matched once per name, then looked up."""

from __future__ import annotations

import bisect
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from evbus.engine.core.chunk import Meta, Run
from evbus.engine.core.lane.lane import Lane
from evbus.engine.core.queue import Queue
from evbus.engine.kit.redact import one_line
from evbus.errors import nearest
from evbus.types import Envelope

__all__ = ["LaneRouter", "Patterns"]

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

    :param destinations: patterns and their lanes, in the order in which these get an event.
    :param find: ``find(name, pattern)`` of the matcher.
    :param queue: counts events that go to lanes, and those that no profile matched.
    :param ends: see :class:`Patterns`.
    :ivar unmatched: how many events no profile matched in this run, by the name of theirs.
    """

    def __init__(
        self,
        destinations: Sequence[tuple[str, Lane]],
        find: Find,
        queue: Queue,
        ends: Ends | None = None,
    ) -> None:
        self.unmatched: Counter[str] = Counter()
        self._queue = queue
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
            if len(self._cache) >= CACHE_NAMES:
                self._cache.clear()
            self._cache[profile] = found
            if not found:
                written = one_line(repr(profile))
                log.warning("no profile matches %s: its events go nowhere%s", written, self.hint(profile))
        return found

    def named(self, profile: str) -> list[Lane]:
        """Return the lanes of this very pattern: what comes in through one has that as its profile."""
        return self._by_pattern.get(profile, [])

    def hint(self, profile: str) -> str:
        """Suggest the profile that may be meant by a name that matches none."""
        names = self._names
        if len(names) > 2 * NEAR:
            ends = [name[::-1] for name in _near(self._backwards, profile[::-1])]
            names = [*_near(names, profile), *ends]
        return nearest(profile, names) or "; no profiles are configured"

    def route(self, slot: Meta | Envelope) -> tuple[Lane, ...]:
        """Return the lanes that an event goes to, noted in what it shares with others. For any thread."""
        lanes = self.lanes(slot.profile)
        if type(slot) is Meta:
            slot.lanes, slot.router = lanes, self
        return lanes

    def dispatch(self, runs: list[Run]) -> tuple[dict[Lane, None], list[Run]]:
        """Offer events to their lanes, up to the first whose lanes are not known. Needs the queue's lock.

        Returns the lanes whose :meth:`~Lane.deliver_now` should be called once the lock is released, each
        once, and the runs that are left: of what was put before this router was there, or whose name was
        forgotten. Call :meth:`route` for the first of them, without the lock since it runs the matcher and
        logs, and then this again.
        """
        ready: dict[Lane, None] = {}
        for place, (slot, events, size) in enumerate(runs):
            if type(slot) is Meta and slot.router is self:
                lanes: tuple[Lane, ...] | None = slot.lanes
            else:
                lanes = self._cache.get(slot.profile)
            if lanes is None:
                return ready, runs[place:]
            if not lanes:
                self._queue.unmatched += len(events)
                known = slot.profile in self.unmatched or len(self.unmatched) < UNMATCHED_NAMES
                self.unmatched[slot.profile if known else OTHERS] += len(events)
                continue
            self._queue.routed += len(events)
            for lane in lanes:
                if lane.offer(events, size):
                    ready[lane] = None
        return ready, []


def _near(names: list[str], name: str) -> list[str]:
    """Return those of sorted names that stand around ``name``."""
    first = max(0, bisect.bisect(names, name) - NEAR // 2)
    return names[first : first + NEAR]
