"""Make lanes of profiles."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from dict_tools.data import SafeNamespaceDict

from evbus.engine.core.lane.lane import DeadLetter, Lane, LaneKey
from evbus.engine.core.lane.route import Ends, Find, Patterns
from evbus.engine.core.lane.sender import Sender, check_publish, takes_text
from evbus.engine.core.lifecycle.bus import LaneSetup
from evbus.engine.core.observe import Observers
from evbus.engine.core.profiles import Accepts, PluginProfile
from evbus.engine.core.queue import Queue
from evbus.engine.kit.redact import secrets_of
from evbus.errors import ProfileError, nearest
from evbus.types import Envelope

__all__ = ["Ingress", "connect", "context_of", "router"]


class Ingress(NamedTuple):
    """An ingress plugin's functions, each called with ``ctx`` first, and what it accepts.

    :ivar plain: the plain ``publish(hub, ctx, ...)``, for its signature.
    """

    accepts: Accepts
    plain: Callable[..., Any]
    publish: Callable[..., Coroutine[Any, Any, Any]]
    publish_batch: Callable[..., Coroutine[Any, Any, Any]] | None = None
    publish_nowait: Callable[..., Any] | None = None
    ready: Callable[..., Any] | None = None
    overlap: bool = False
    opener: Callable[..., Coroutine[Any, Any, Any]] | None = None
    closer: Callable[..., Coroutine[Any, Any, Any]] | None = None
    request: Callable[..., Coroutine[Any, Any, Any]] | None = None
    reply: Callable[..., Coroutine[Any, Any, Any]] | None = None


def connect(
    profiles: Sequence[PluginProfile],
    plugins: Mapping[str, Ingress],
    queue: Queue,
    on_dead: Callable[[Lane, list[DeadLetter]], None],
    *,
    find: Find,
    source: str,
    ends: Ends | None = None,
    observers: Observers | None = None,
) -> list[LaneSetup]:
    """Return a lane for every profile.

    :param observers: told of what becomes of its events.

    :raises ProfileError: a ``delivery.dead_letter`` names no profile.
    """
    _check_dead_letters(profiles, Patterns([profile.name for profile in profiles], find, ends), source)
    observers = observers or Observers()
    plugins = {name: observers.gate(plugin) for name, plugin in plugins.items()}
    return [_connect(profile, plugins[profile.plugin], queue, on_dead, observers) for profile in profiles]


def _connect(
    profile: PluginProfile,
    plugin: Ingress,
    queue: Queue,
    on_dead: Callable[[Lane, list[DeadLetter]], None],
    observers: Observers,
) -> LaneSetup:
    ctx = context_of(profile.name, profile.provider, profile.data, profile.settings)
    secrets = secrets_of(profile.data)
    sender = Sender(
        ctx,
        publish=plugin.publish,
        takes=check_publish(plugin.plain),
        text=takes_text(plugin.plain),
        publish_batch=plugin.publish_batch,
        publish_nowait=plugin.publish_nowait,
        ready=plugin.ready,
        overlap=plugin.overlap,
        opener=plugin.opener,
        closer=plugin.closer,
        route=router(profile.routing_key),
        timeout=profile.delivery.timeout,
        secrets=secrets,
    )
    key = LaneKey(profile.plugin, profile.provider, profile.name)
    lane = Lane(key, sender, profile.delivery, queue, on_dead, secrets=secrets, observers=observers)
    return LaneSetup(profile.name, lane, sender)


def context_of(name: str, provider: str, data: dict[str, Any], settings: Any) -> SafeNamespaceDict:
    """Return the ``ctx`` of a plugin."""
    return SafeNamespaceDict(
        acct=SafeNamespaceDict(data), profile=settings, name=name, provider=provider, state=None
    )


def router(template: str | None) -> Callable[[Envelope], Envelope] | None:
    """Return a function that gives events the routing key of a template; None if they keep theirs."""
    if template is None or template == "{routing_key}":
        return None
    if "{" not in template and "}" not in template:
        return lambda event: event.replace(routing_key=template)
    return lambda event: event.replace(
        routing_key=template.format(routing_key=event.routing_key, profile=event.profile)
    )


def _check_dead_letters(profiles: Sequence[PluginProfile], patterns: Patterns, source: str) -> None:
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
