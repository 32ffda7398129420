"""Answers a test's questions about its bus, in sentences."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from evbus.engine.handling.events.busy import busy
from evbus.errors import EvbusError, nearest
from evbus.testing._profiles import names
from evbus.testing._watch import Dead, Handled, Sent, Watch

__all__ = ["View", "readable", "told", "traced"]

#: What an error shows of what happened, at most.
SHOWN = 20
#: Whose frames a traceback is shown without.
HIDDEN = (
    f"{Path(__file__).parents[1]}/",
    *(f"{Path(str(module.__file__)).parent}/" for module in (asyncio, concurrent.futures)),
)


class View:
    """A view of a hub: its events so far, and the work that is left."""

    def __init__(
        self,
        the_hub: Any,
        profiles: Mapping[str, Any],
        watch: Watch,
    ) -> None:
        self.hub = the_hub
        self._profiles = profiles
        self._watch = watch

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
        registry = self.hub.event.REGISTRY

        def is_one(one: Sent) -> bool:
            spec = registry.named(one.message)
            return spec is not None and spec.cls is not None and issubclass(spec.cls, event)

        return is_one

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
        for dead in self._watch.deaths:
            kind, _, name = dead.where.partition(" ")
            if (
                kind == "listener"
                and not dead.injected
                and is_one(Handled(name, dead.name, dead.event, None))
            ):
                return dead
        return None

    def busy(self) -> list[str]:
        """Return sentences about the work that is left."""
        return busy(
            self.hub,
            lambda profile, for_ever: self._watch.blocks(profile, for_ever=for_ever),
            lambda name, for_ever: for_ever and self._watch.blocks_listener(name),
        )

    # Sentences

    def not_sent(self, event: Any, where: Any, count: int, seconds: float) -> str:
        name = event if isinstance(event, str) else event.__qualname__
        is_one = self.sent_is(event)
        found = readable([one for one in self._watch.sent if is_one(one)])
        met = [one for one in found if where is None or where(one)]
        what = f"no {name}" if count == 1 else f"{len(met) or 'none'} of {count} {name}"
        if found and where is not None:
            what += " that meets the condition"
        return f"{what} was sent within {seconds:g} s; {self.what_was_sent()}{self._what_died()}"

    def what_was_sent(self) -> str:
        sent = self._watch.sent
        if not sent:
            return "nothing was sent"
        find, patterns = self.hub.evbus.init.finder(self._profiles), names(self._profiles)
        shown = []
        for one in sent[-SHOWN:]:
            lost = not any(find(one.profile, pattern) for pattern in patterns)
            shown.append(f"  {one!r}{', which no profile matches' if lost else ''}")
        before = f"  ... {len(sent) - SHOWN} before these\n" if len(sent) > SHOWN else ""
        return "what was sent:\n" + before + "\n".join(shown)

    def not_handled(self, event: Any, listener: str, count: int, seconds: float) -> str:
        name = event if isinstance(event, str) else event.__qualname__
        who = f"by the listener {listener}" if listener else "by a listener"
        what = f"no {name} was handled" if count == 1 else f"not {count} {name} were handled"
        known = sorted({entry.listening.listener.name for entry in self.hub.event.SUBSCRIPTIONS})
        there = f"the listeners are {', '.join(known)}" if known else "there are no listeners"
        if known and listener and listener not in known:
            there = f"there is no listener {listener!r}{nearest(listener, known)}"
        recent = self._watch.handlings[-SHOWN:]
        calls = [f"\n  {one.listener}: {one.event!r}{_outcome(one)}" for one in recent]
        did = f"what listeners handled:{''.join(calls)}" if calls else "no listener was called"
        left = self.busy()
        going = f"\nnot done yet: {'; '.join(left)}" if left else ""
        return (
            f"{what} {who} within {seconds:g} s; {there}\n{did}\n{self.what_was_sent()}"
            f"{self._what_died()}{going}"
        )

    def _what_died(self) -> str:
        return "".join(f"\nand {dead}" for dead in self._watch.deaths[-SHOWN:])


def readable(sent: list[Sent]) -> list[Any]:
    """Return the events of those that can be read."""
    found = []
    for one in sent:
        with contextlib.suppress(EvbusError):
            found.append(one.event)
    return found


def _outcome(one: Handled) -> str:
    return "" if one.error is None else f" failed with {type(one.error).__name__}: {one.error}"


def told(problems: list[Dead], earlier: Collection[BaseException]) -> str:
    """Return a sentence about dead letters, each with its traceback.

    :param earlier: what earlier attempts raised, which is shown only once.
    """
    count = "a dead letter" if len(problems) == 1 else f"{len(problems)} dead letters"
    lines = [f"the test left {count} that it neither looked at (dead) nor wanted (fail):"]
    lines += [traced(problem, earlier) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"... and {len(problems) - SHOWN} more")
    return "\n".join(lines)


def traced(problem: Dead, earlier: Collection[BaseException]) -> str:
    """Return a sentence about a dead letter, with the traceback of its exception, less the bus's part."""
    if problem.exception is None:
        return str(problem)
    trace = traceback.TracebackException.from_exception(problem.exception)
    shown = _trim(trace, problem.exception, {id(one) for one in earlier})
    text = "".join(trace.format()).rstrip() if shown else ""
    return f"{problem}\n{text}".rstrip()


def _trim(trace: traceback.TracebackException, problem: BaseException, earlier: set[int]) -> bool:
    """Leave the frames of the application in a traceback; return whether there are any."""
    own = [frame for frame in trace.stack if not frame.filename.startswith(HIDDEN)]
    trace.stack = traceback.StackSummary.from_list(own)
    shown = bool(own)
    if problem.__context__ is not None and id(problem.__context__) in earlier:
        trace.__context__ = None
    for part, whole in ((trace.__cause__, problem.__cause__), (trace.__context__, problem.__context__)):
        if part is not None and whole is not None:
            shown = _trim(part, whole, earlier) or shown
    return shown
