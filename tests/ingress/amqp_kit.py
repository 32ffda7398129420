"""A hub with the rooms that AMQP needs, profiles, and the plugins opened on them; for both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import aiormq.abc

from evbus.engine.core.plugins import installed
from evbus.engine.wire.amqp.profile import Profile
from evbus.errors import Unavailable
from evbus.types import Envelope
from tests.transports.kit import SOON, WAIT, Kit, event, eventually, new_hub, numbered

__all__ = [
    "WAIT",
    "bus",
    "consuming",
    "context",
    "event",
    "eventually",
    "got",
    "kill",
    "lane",
    "library",
    "new_hub",
    "numbered",
    "opened",
    "publish",
    "publish_as_a_lane",
    "put",
    "ready",
    "set_largest",
    "until_lost",
    "url",
]

_kit = Kit("amqp", Profile)
context, opened, publish, ready, consuming = (
    _kit.context,
    _kit.opened,
    _kit.publish,
    _kit.ready,
    _kit.consuming,
)


def url(node: Any, port: int | None = None, *, user: str = "guest", password: str = "guest") -> str:
    """Return the url of a broker of `tests.servers`, perhaps behind a proxy's port."""
    return f"amqp://{user}:{password}@{node.host}:{port or node.port}/"


async def publish_as_a_lane(hub: Any, ctx: Any, *events: Envelope) -> list[Any]:
    """Publish events, and again, in their order, those that have to wait for the queue to be declared."""
    outcomes = await publish(hub, ctx, *events)
    waiting = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Unavailable)]
    if waiting:
        again = await publish(hub, ctx, *(events[index] for index in waiting))
        for index, outcome in zip(waiting, again, strict=True):
            outcomes[index] = outcome
    return outcomes


async def until_lost(ctx: Any) -> None:
    """Return when the plugin's present connection is gone."""
    session = ctx.state.connection.session
    if session is not None:
        await asyncio.wait_for(asyncio.shield(session.lost), WAIT)


@asynccontextmanager
async def library(node: Any) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """Yield a channel of aiormq's own, to see what evbus did and to do what it does not."""
    connection = await aiormq.connect(node.url)
    try:
        yield await connection.channel(publisher_confirms=True)
    finally:
        await connection.close()


async def got(channel: aiormq.abc.AbstractChannel, queue: str) -> Any:
    """Take one message off a queue, with its properties; None when it is empty."""
    message = await channel.basic_get(queue, no_ack=True)
    return message if message.delivery_tag else None


@asynccontextmanager
async def bus(folder: Any, **profiles: Any) -> AsyncIterator[Any]:
    """Run a whole bus on profiles of the provider amqp, with quick attempts; yield its hub."""
    hub = installed.new_hub()
    hub.OPT = hub.pop.data.imap({"evbus": {"dead_store": folder / "dead.jsonl", "drain_timeout": WAIT}})
    retry = {"retry": {"attempts": 3, "min": 0.001, "max": 0.02}}
    contexts = {
        "amqp": {name: {"reconnect": SOON, "delivery": retry, **data} for name, data in profiles.items()}
    }
    task = asyncio.ensure_future(hub.evbus.init.start(contexts))
    try:
        await asyncio.sleep(0)  # a join before the start has begun tells how the last one failed
        await asyncio.wait_for(hub.evbus.init.join(), WAIT)
        yield hub
    finally:
        await asyncio.wait_for(hub.evbus.init.stop(), WAIT)
        await asyncio.wait({task}, timeout=WAIT)


async def put(hub: Any, profile: str, key: str, *bodies: object) -> None:
    for body in bodies:
        await hub.evbus.broker.put(body=body, profile=profile, routing_key=key)


def lane(hub: Any, profile: str) -> Any:
    """Return the counters of a profile's lane."""
    return hub.evbus.stats.snapshot()["lanes"][f"amqp.amqp.{profile}"]


async def kill(node: Any) -> None:
    """Kill a broker once what was declared is on its disk."""
    await asyncio.to_thread(node.sync)
    await asyncio.to_thread(node.kill)


def set_largest(node: Any, size: int) -> None:
    """Set the largest body that a broker takes, of which RabbitMQ 3 and 4 keep in two places."""
    places = ("persistent_term:put(", "application:set_env(rabbit, ")
    node.evaluate(", ".join(f"{place}max_message_size, {size})" for place in places))
