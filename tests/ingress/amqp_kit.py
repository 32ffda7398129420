"""A hub with the rooms that AMQP needs, profiles, and the plugins opened on them; for both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiormq
import aiormq.abc
import msgspec
import pop.hub
from dict_tools.data import NamespaceDict

from evbus.engine.wire.amqp.profile import Profile
from evbus.errors import Unavailable
from evbus.types import Delivery, Envelope, Subscription

WAIT = 30.0  # seconds; nothing is waited for that long unless something is wrong
SOON = {"min": 0.01, "max": 0.05}  # seconds between two attempts


def new_hub() -> Any:
    hub = pop.hub.Hub()
    for room in ("connection", "ingress", "egress"):
        hub.pop.sub.add(dyne_name=room, pypath=f"evbus.{room}")
    return hub


def url(node: Any, port: int | None = None, *, user: str = "guest", password: str = "guest") -> str:
    """Return the url of a broker of `tests.servers`, perhaps behind a proxy's port."""
    return f"amqp://{user}:{password}@{node.host}:{port or node.port}/"


def context(name: str = "orders", provider: str = "amqp", **data: Any) -> Any:
    """Return what a plugin gets; attempts to connect follow each other quickly unless `data` says more."""
    data = {"reconnect": SOON, **data}
    profile = msgspec.convert(data, type=Profile, strict=False)
    return NamespaceDict(name=name, provider=provider, acct=data, profile=profile, state=None)


def event(key: str, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Envelope:
    return Envelope("orders", key, body, headers or {}, time.monotonic())


def numbered(key: str, count: int, *, start: int = 0) -> list[Envelope]:
    return [event(key, b"%d" % number) for number in range(start, start + count)]


@asynccontextmanager
async def opened(hub: Any, **data: Any) -> AsyncIterator[Any]:
    """Yield the context of an opened ingress plugin."""
    ctx = context(**data)
    ctx["state"] = await asyncio.wait_for(hub.ingress.amqp.open(ctx), WAIT)
    try:
        yield ctx
    finally:
        await asyncio.wait_for(hub.ingress.amqp.close(ctx), WAIT)


async def publish(hub: Any, ctx: Any, *events: Envelope) -> list[Any]:
    found: list[Any] = await asyncio.wait_for(hub.ingress.amqp.publish_batch(ctx, list(events)), WAIT)
    return found


async def publish_as_a_lane(hub: Any, ctx: Any, *events: Envelope) -> list[Any]:
    """Publish events, and again, in their order, those that have to wait for the queue to be declared."""
    outcomes = await publish(hub, ctx, *events)
    waiting = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Unavailable)]
    if waiting:
        again = await publish(hub, ctx, *(events[index] for index in waiting))
        for index, outcome in zip(waiting, again, strict=True):
            outcomes[index] = outcome
    return outcomes


async def ready(hub: Any, ctx: Any) -> None:
    """Return when the plugin takes events."""
    found = hub.ingress.amqp.ready(ctx)
    if found is not None:
        await asyncio.wait_for(found[1], WAIT)


async def until_lost(ctx: Any) -> None:
    """Return when the plugin's present connection is gone."""
    session = ctx.state.connection.session
    if session is not None:
        await asyncio.wait_for(asyncio.shield(session.lost), WAIT)


@asynccontextmanager
async def consuming(
    hub: Any, wanted: Subscription | None = None, **data: Any
) -> AsyncIterator[Callable[[], Awaitable[Delivery]]]:
    """Yield a function that returns the next delivery. The plugin's own generator, which POP would hide."""
    made = hub.egress.amqp.consume.func(hub, context(**data), wanted or Subscription())
    async with aclosing(made) as deliveries:

        async def following() -> Delivery:
            found: Delivery = await asyncio.wait_for(anext(deliveries), WAIT)
            return found

        yield following


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


async def eventually(true: Callable[[], Any], what: str) -> None:
    """Return once `true` returns something true: for what tells nobody when it comes about."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, f"not within {WAIT:g} s: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def bus(folder: Any, **profiles: Any) -> AsyncIterator[Any]:
    """Run a whole bus on profiles of the provider amqp, with quick attempts; yield its hub."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
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
    node.ctl("eval", ", ".join(f"{place}max_message_size, {size})" for place in places) + ".")
