"""Says in words which work is left on a bus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evbus.engine.kit.counted import counted

__all__ = ["busy"]


def _nothing(_name: str, _for_ever: bool) -> bool:
    return False


def busy(
    the_hub: Any,
    lane_blocked: Callable[[str, bool], bool] = _nothing,
    listener_blocked: Callable[[str, bool], bool] = _nothing,
) -> list[str]:
    """Return sentences about the events still to be delivered or handled, none when all is done.

    :param lane_blocked: gets the name of a profile, and whether its lane tries for ever: whether that lane is
        not to be waited for.
    :param listener_blocked: the same for the name of a listener.
    """
    return [*_lanes(the_hub, lane_blocked), *_listeners(the_hub, listener_blocked)]


def _lanes(the_hub: Any, blocked: Callable[[str, bool], bool]) -> list[str]:
    engine = the_hub.evbus.ENGINE
    found = []
    if engine.passing(""):
        found.append(f"{_events(max(engine.queue.qsize(), 1))} on the way to their lanes")
    for name, lane in engine.lanes.items():
        if not lane.idle and not blocked(lane.key.profile, not lane.delivery.retry.attempts):
            counts = lane.snapshot()
            left = counts["queued"] + counts["in_flight"]
            why = f" ({lane.last_error})" if lane.last_error else ""
            found.append(f"the lane {name} has {_events(left)} left{why}")
    return found


def _listeners(the_hub: Any, blocked: Callable[[str, bool], bool]) -> list[str]:
    found, spared = [], False
    for entry in the_hub.event.SUBSCRIPTIONS:
        listening = entry.listening
        name = listening.listener.name
        if listening.idle:
            continue
        if blocked(name, not listening.spec.retry.attempts):
            spared = True
            continue
        counts = listening.snapshot()
        left = max(counts["running"] + counts["queued"], 1)
        found.append(f"the listener {name} is not done with {_events(left)}")
    held = the_hub.egress.internal.held()
    if held and not found and not spared:
        found.append(f"{_events(held)} with consumers that have not settled them")
    if the_hub.dispatch.init.running():
        routers = the_hub.dispatch.init.snapshot()
        for name in ("events", "commands", "queries"):
            left = routers[name]["running"] + routers[name]["queued"]
            if left:
                found.append(f"the dispatcher's router {name} is not done with {_events(left)}")
    return found


def _events(count: int) -> str:
    return counted(count, "event", "events")
