"""What a test asks about its bus, and the sentences that answer it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from evbus.errors import EvbusError, nearest

from ._failures import Failures
from ._sent import Recorder, Sent
from ._watch import Dead, Handled, Watch

__all__ = ["View", "readable", "told"]

#: What an error shows of what happened, at most.
SHOWN = 20


class View:
    """What happened on a hub, and what is still to happen."""

    def __init__(self, the_hub: Any, recorder: Recorder, watch: Watch, failures: Failures) -> None:
        self.hub = the_hub
        self._recorder = recorder
        self._watch = watch
        self._failures = failures

    def _know(self, event: Any) -> None:
        """Let a class that was only sent by its name be found by it.

        :raises HandlerSignatureError: it is no event, and has none below it.
        """
        registry = self.hub.event.REGISTRY
        if not any(spec.cls is not None and issubclass(spec.cls, event) for spec in registry):
            registry.of(event)

    def sent_is(self, event: Any) -> Callable[[Sent], bool]:
        if event is None:
            return lambda one: True
        if isinstance(event, str):
            return lambda one: one.name == event
        if not isinstance(event, type):
            raise TypeError(
                f"name the class of an event, or its name, and not {event!r}; use where= for the rest"
            )
        self._know(event)
        return lambda one: isinstance(_or_none(one), event)

    def handled_is(
        self, event: Any, where: Callable[[Any], bool] | None, listener: str
    ) -> Callable[[Handled], bool]:
        if not isinstance(event, str):
            self.sent_is(event)  # refuses what is no event

        def is_one(one: Handled) -> bool:
            if listener and one.listener != listener:
                return False
            if isinstance(event, str):
                known = self.hub.event.REGISTRY.named(event)
                if one.name != event and not (known and known.cls and isinstance(one.event, known.cls)):
                    return False
            elif not isinstance(one.event, event):
                return False
            return where is None or where(one.event)

        return is_one

    def given_up(self, is_one: Callable[[Handled], bool]) -> Dead | None:
        for dead in self._watch.dead:
            kind, _, name = dead.where.partition(" ")
            if (
                kind == "listener"
                and not dead.injected
                and is_one(Handled(name, dead.name, dead.event, None))
            ):
                return dead
        return None

    def busy(self) -> list[str]:
        """Return what is still to be done, in words."""
        return [*self._busy_lanes(), *self._busy_listeners()]

    def _busy_lanes(self) -> list[str]:
        engine = self.hub.evbus.ENGINE
        found = []
        if not engine.queue.empty():
            found.append(f"{engine.queue.qsize()} events wait for their lanes")
        for name, lane in engine.lanes.items():
            if not lane.idle and not self._failures.lasting(lane.key.profile):
                counts = lane.snapshot()
                left = counts["queued"] + counts["in_flight"]
                why = f" ({lane.last_error})" if lane.last_error else ""
                found.append(f"the lane {name} has {_events(left)} left{why}")
        return found

    def _busy_listeners(self) -> list[str]:
        groups = [group for group in self.hub.egress.GROUPS.values() if len(group) and group._members]
        found = [f"{_events(len(group))} wait for listeners that have no room" for group in groups]
        for entry in self.hub.event.SUBSCRIPTIONS:
            if not entry.listening.idle:
                counts = entry.listening.snapshot()
                left = max(counts["running"] + counts["queued"], 1)
                found.append(f"the listener {entry.listening.listener.name} is not done with {_events(left)}")
        if self.hub.dispatch.init.running():
            routers = self.hub.dispatch.init.snapshot()
            for name in ("events", "commands", "queries"):
                left = routers[name]["running"] + routers[name]["queued"]
                if left:
                    found.append(f"the dispatcher's router {name} is not done with {_events(left)}")
        return found

    # Sentences

    def not_sent(self, event: Any, where: Any, count: int, seconds: float) -> str:
        name = event if isinstance(event, str) else event.__qualname__
        is_one = self.sent_is(event)
        found = readable([one for one in self._recorder.all if is_one(one)])
        met = [one for one in found if where is None or where(one)]
        what = f"no {name}" if count == 1 else f"{len(met) or 'none'} of {count} {name}"
        if found and where is not None:
            what += " that meets the condition"
        return f"{what} was sent within {seconds:g} s; {self.what_was_sent()}{self._what_died()}"

    def what_was_sent(self) -> str:
        sent = self._recorder.all
        if not sent:
            return "nothing was sent"
        shown = [f"  {one!r}" for one in sent[-SHOWN:]]
        before = f"  ... {len(sent) - SHOWN} before these\n" if len(sent) > SHOWN else ""
        return "what was sent:\n" + before + "\n".join(shown)

    def not_handled(self, event: Any, listener: str, count: int, seconds: float) -> str:
        name = event if isinstance(event, str) else event.__qualname__
        who = f"by the listener {listener}" if listener else "by a listener"
        what = f"no {name} was handled" if count == 1 else f"not {count} {name} were handled"
        known = [entry.listening.listener.name for entry in self.hub.event.SUBSCRIPTIONS]
        if listener and listener not in known:
            who += f", which there is none of{nearest(listener, known)}"
        recent = self._watch.handled[-SHOWN:]
        calls = [f"  {one.listener}: {one.event!r}{_outcome(one)}" for one in recent]
        did = "what listeners handled:\n" + "\n".join(calls) if calls else "no listener was called"
        there = f"the listeners are {', '.join(sorted(set(known)))}" if known else "there are no listeners"
        busy = self.busy()
        going = f"\nnot done yet: {'; '.join(busy)}" if busy else ""
        return (
            f"{what} {who} within {seconds:g} s; {there}, and {did}\n{self.what_was_sent()}"
            f"{self._what_died()}{going}"
        )

    def _what_died(self) -> str:
        return "".join(f"\nand {dead}" for dead in self._watch.dead[-SHOWN:])


def _or_none(sent: Sent) -> Any:
    try:
        return sent.event
    except EvbusError:
        return None


def readable(sent: list[Sent]) -> list[Any]:
    return [event for event in map(_or_none, sent) if event is not None]


def _events(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"


def _outcome(one: Handled) -> str:
    return "" if one.error is None else f" failed with {type(one.error).__name__}: {one.error}"


def told(problems: list[Dead]) -> str:
    count = "a dead letter" if len(problems) == 1 else f"{len(problems)} dead letters"
    lines = [f"the test left {count} that it neither looked at (dead) nor wanted (fail):"]
    for number, problem in enumerate(problems[:SHOWN]):
        lines.append(f"  {problem}")
        if number and problem.exception is not None:
            lines.append("".join(traceback.format_exception(problem.exception)).rstrip())
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    return "\n".join(lines)
