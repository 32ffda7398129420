"""The way of events that were given up: to another profile or the dead store, and those who observe it."""

from __future__ import annotations

import asyncio
import logging

from evbus.engine.core.dead.store import DeadStore
from evbus.engine.core.lane.lane import DeadLetter, Lane
from evbus.engine.core.lane.route import LaneRouter
from evbus.engine.core.lane.stats import LaneKey
from evbus.engine.core.observe import Observers, Where
from evbus.engine.core.queue import Queue
from evbus.engine.kit.counted import counted
from evbus.engine.kit.failure import about, place, trace
from evbus.engine.kit.redact import problem_text
from evbus.types import Envelope, own_headers

__all__ = ["DeadLetters"]

log = logging.getLogger("evbus.bus")

#: Seconds that a disk may hang at the least before what waits for it is lost.
LAST_MOMENT = 1.0
#: Seconds until it is asked again whether what could not be written is on the disk.
PAUSE = 1.0


class DeadLetters:
    """Record dead events, for one run of the bus.

    :param queue: the bus's queue: its lock guards the lanes.
    :param store: takes what no profile gets.
    :param observers: told of each, and of what a stop has left.
    :ivar router: finds the lanes of a dead letter profile; without it all goes to the store.
    :ivar muted: nobody is told any more.
    :ivar died: events that were given up while the bus ran, and went to the store.
    """

    def __init__(self, queue: Queue, store: DeadStore, observers: Observers) -> None:
        self.router: LaneRouter | None = None
        self.died = 0
        self._queue = queue
        self._store = store
        self._observers = observers
        self.muted = False

    def dead_letter(self, lane: Lane, dead: list[DeadLetter]) -> None:
        """Send events to their dead letter profile or to the dead store, and tell of them."""
        for entry in dead:
            reason = lane.reason(entry.reason)
            tries = counted(entry.attempts, "attempt", "attempts")
            details = about(entry.reason, reason, entry.event)
            log.error("lane %s: an event is dead after %s: %s%s", lane.key, tries, reason, details)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("lane %s: an event is dead\n%s", lane.key, trace(entry.reason, lane.secrets))
            try:
                if not self._send(lane, entry, reason):
                    self.died += 1
                    self._record(entry.event, str(lane.key), reason, entry.attempts, lane.key, entry.reason)
            except Exception:
                log.exception("lane %s: a dead event could not be recorded", lane.key)
            self._tell(entry.event, lane.key, reason, entry.attempts, entry.reason)

    def _send(self, lane: Lane, entry: DeadLetter, reason: str) -> bool:
        profile = lane.delivery.dead_letter
        # A dead letter that dies is not sent round again.
        if profile is None or self.router is None or "evbus-dead-lane" in entry.event.headers:
            return False
        headers = own_headers(entry.event.headers)
        headers["evbus-dead-lane"] = str(lane.key)
        headers["evbus-dead-profile"] = entry.event.profile
        headers["evbus-dead-reason"] = reason
        headers["evbus-dead-attempts"] = str(entry.attempts)
        letter = entry.event.replace(profile=profile, headers=headers)
        lanes = self.router.lanes(profile)
        if lane.tracker is not None:
            lane.tracker.follow(entry.event, letter, len(lanes))
            for target in lanes:
                target.tracker = lane.tracker
        with self._queue.lock:
            ready = [target for target in lanes if target.offer([letter], len(letter.body))]
        for target in ready:
            target.deliver_now()
        return bool(lanes)

    def keep(
        self, event: Envelope, where: str, reason: str, attempts: int, key: LaneKey | None = None
    ) -> None:
        """Write an event to the dead store that a stop has left, and tell of it."""
        self._record(event, where, reason, attempts, key)
        if self._observers.left is not None and not self.muted:
            self._observers.left(event, key or where, reason)

    def _record(
        self,
        event: Envelope,
        where: str,
        reason: str,
        attempts: int,
        key: LaneKey | None = None,
        problem: BaseException | None = None,
    ) -> bool:
        plugin, provider, profile = key or ("", "", event.profile)
        return self._store.add(
            event,
            lane=where,
            plugin=plugin,
            provider=provider,
            profile=profile,
            reason=reason,
            attempts=attempts,
            kind="" if problem is None else type(problem).__name__,
            place="" if problem is None else place(problem),
        )

    async def give_up(self, event: Envelope, where: str, problem: Exception, attempts: int) -> bool:
        """Write an event that no lane gave up to the dead store, and tell of it.

        It waits until the event is on the disk, as long as that takes.

        :returns: whether it is there; if not, the bus has ended meanwhile.
        """
        reason = problem_text(problem)
        tries = f" after {counted(attempts, 'attempt', 'attempts')}" if attempts else ""
        log.error("%s: an event is dead%s: %s%s", where, tries, reason, about(problem, reason, event))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: an event is dead\n%s", where, trace(problem))
        self._tell(event, where, reason, attempts, problem)
        self.died += 1
        recorded = self._record(event, where, reason, attempts, problem=problem)
        while not recorded or not await self._store.flush():
            if self._store.closed:
                return False
            await asyncio.sleep(PAUSE)
            recorded = recorded or self._record(event, where, reason, attempts, problem=problem)
        return True

    def _tell(
        self, event: Envelope, where: Where, reason: str, attempts: int, problem: BaseException
    ) -> None:
        if self._observers.dead is not None and not self.muted:
            self._observers.dead(event, where, reason, attempts, problem)

    async def close(self, patience: float) -> None:
        """Flush and close the store. A disk has ``patience`` seconds to end."""
        await self._store.close(max(LAST_MOMENT, patience))
