"""Events that were sent and that nobody listens to: they are counted, and told once for each name."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Mapping

from evbus.engine.handling.events.declare import gets
from evbus.engine.handling.events.reader import NAME
from evbus.engine.kit.redact import one_line
from evbus.types import Envelope

__all__ = ["Unheard"]

log = logging.getLogger("evbus.event")


class Unheard:
    """Counts events that came to a queue of this process from which nobody takes.

    :param listened: returns the names of the events that listeners want, each with the names of these.
    :param elsewhere: returns whether somebody else gets an event, or counts it: another queue, process, or
        profile than the one that is named.
    :param changes: returns how often a listener came or went.
    :ivar counts: of each name, since the hub was made.
    """

    def __init__(
        self,
        listened: Callable[[], Mapping[str, list[str]]],
        elsewhere: Callable[[Envelope, str], bool],
        changes: Callable[[], int],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._listened = listened
        self._elsewhere = elsewhere
        self._changes = changes
        # Names that nobody has listened to since the last change.
        self._silent: tuple[int, set[str]] = (changes(), set())
        self._before: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Unheard {dict(self.counts)}>"

    def begin(self) -> None:
        """Count those of a new run."""
        self._before = self.counts.copy()

    def of_run(self) -> dict[str, int]:
        """Return how many of each name there were in this run."""
        return dict(self.counts - self._before)

    def take(self, events: list[Envelope], profile: str) -> None:
        """Look at events of one routing key that came through one profile."""
        # What was put and not sent as an event may be for who asks for its queue later.
        name = events[0].headers.get(NAME)
        if name is None or self._elsewhere(events[0], profile):
            return
        changes = self._changes()
        if changes != self._silent[0]:
            self._silent = (changes, set())
        if name not in self._silent[1]:
            listened = self._listened()
            if gets(listened, name):
                return
            self._silent[1].add(name)
        if name not in self.counts:
            log.warning(
                "nobody listens to the event %s, which was sent%s",
                one_line(name),
                _hint(name, self._listened()),
            )
        self.counts[name] += len(events)


def _hint(name: str, listened: Mapping[str, list[str]]) -> str:
    if not listened:
        return "; there is no listener"
    for near in difflib.get_close_matches(name, listened, n=1):
        return f"; the listener {listened[near][0]} listens to {near}"
    more = ", ..." if len(listened) > 10 else ""
    return f"; listened to are {', '.join(sorted(listened)[:10])}{more}"
