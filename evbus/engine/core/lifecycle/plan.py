"""Make lanes of profiles, and open them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from evbus.engine.core.endpoint import Endpoint, router
from evbus.engine.core.lane.lane import DeadLetter, Lane, LaneKey
from evbus.engine.core.lane.route import Ends, Find, Patterns
from evbus.engine.core.lane.sender import Sender, check_publish, takes_text
from evbus.engine.core.observe import Observers
from evbus.engine.core.queue import Queue
from evbus.engine.kit.redact import secrets_of
from evbus.errors import ConfigError, ConnectFailed, ProfileError, Rejected, nearest

__all__ = ["connect", "open_all"]


def connect(
    profiles: Sequence[Endpoint],
    queue: Queue,
    on_dead: Callable[[Lane, list[DeadLetter]], None],
    *,
    find: Find,
    source: str,
    ends: Ends | None = None,
    observers: Observers | None = None,
) -> list[Lane]:
    """Return a lane for every profile.

    :param observers: told of what becomes of its events.

    :raises ProfileError: a ``delivery.dead_letter`` names no profile.
    """
    _check_dead_letters(profiles, Patterns([profile.name for profile in profiles], find, ends), source)
    observers = observers or Observers()
    return [_connect(profile, queue, on_dead, observers) for profile in profiles]


def _connect(
    profile: Endpoint,
    queue: Queue,
    on_dead: Callable[[Lane, list[DeadLetter]], None],
    observers: Observers,
) -> Lane:
    plugin = observers.gate(profile.plugin)
    functions, plain = plugin.functions, plugin.publish
    assert plain is not None
    secrets = secrets_of(profile.data)
    sender = Sender(
        profile.context(),
        publish=functions["publish"],
        takes=check_publish(plain),
        text=takes_text(plain),
        publish_batch=functions.get("publish_batch"),
        begin_batch=functions.get("begin_batch"),
        publish_nowait=functions.get("publish_nowait"),
        ready=functions.get("ready"),
        overlap="OVERLAP" in plugin.flags,
        opener=functions.get("open"),
        closer=functions.get("close"),
        route=router(profile.routing_key),
        timeout=profile.delivery.timeout,
        secrets=secrets,
    )
    key = LaneKey(plugin.name, profile.provider, profile.name)
    return Lane(key, sender, profile.delivery, queue, on_dead, secrets=secrets, observers=observers)


def _check_dead_letters(profiles: Sequence[Endpoint], patterns: Patterns, source: str) -> None:
    there: set[str] = set()
    for profile in profiles:
        target = profile.delivery.dead_letter
        if target is None or target in there:
            continue
        if not patterns.matching(target):
            raise ProfileError(
                f"no profile matches {target!r}{nearest(target, {one.name for one in profiles})}",
                source=source,
                path=f"{profile.path}.delivery.dead_letter",
            )
        there.add(target)


async def open_all(lanes: Sequence[Lane], seconds: float) -> None:
    """Open every sender, ``seconds`` at most; what only time can mend is logged, and tried again later.

    :raises ConfigError: a profile is wrong.
    :raises ConnectFailed: a profile says not to wait for what it connects to.
    :raises Rejected: what it connects to does not take it.
    """
    results = await asyncio.gather(*(lane.sender.open(seconds) for lane in lanes), return_exceptions=True)
    for lane, problem in zip(lanes, results):  # noqa: B905 - one result each
        if isinstance(problem, (ConfigError, ConnectFailed, Rejected, asyncio.CancelledError)):
            raise problem
        if isinstance(problem, BaseException):
            lane.fails(problem, "cannot be opened, and")
