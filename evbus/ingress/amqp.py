"""Publish to RabbitMQ, or another AMQP 0-9-1 broker; delivered is what the broker has confirmed.

The keys of a profile are documented at :class:`evbus.engine.wire.amqp.profile.Profile`.
"""

from evbus import types
from evbus.engine.wire.amqp import profile as _profile

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    hub.ingress.amqp.ACCT = ["amqp", "rabbitmq", "pika"]
    hub.ingress.amqp.SOLE = True
    hub.ingress.amqp.OVERLAP = True
    hub.ingress.amqp.PROFILE = _profile.Profile


async def open_(hub, ctx):
    """Return a ``Requester`` for a profile: its connection open, its exchange and queue declared.

    :raises ConnectFailed: there is no connection, or the broker refuses the exchange or the queue; unless
        the profile says ``first_connect: wait``.
    """
    from evbus.engine.wire.amqp import requests as _requests

    connection = await hub.connection.amqp.open(ctx)
    requester = _requests.Requester(connection, ctx.profile, ctx.name)
    try:
        await requester.open()
    except BaseException:
        await hub.connection.amqp.close(connection)
        raise
    return requester


def ready(hub, ctx):
    """Return None when the broker takes events, else why not, and what to await until it does."""
    return ctx.state.connection.ready()


async def publish(hub, ctx, routing_key, body, headers=None):
    """Publish one event and wait for its confirm; see :func:`publish_batch`."""
    envelope = types.Envelope(ctx.name, routing_key, body, headers or {})
    (outcome,) = await ctx.state.publish([envelope])
    if outcome is not None:
        raise outcome


async def publish_batch(hub, ctx, events):
    """Publish events in one go and wait until the broker has answered for all of them.

    Outcomes are None (confirmed), :class:`~evbus.errors.Rejected` (unroutable, or not to be carried by AMQP)
    and :class:`~evbus.errors.DeliveryError` (refused by ``basic.nack``).

    :raises Unavailable: no connection, no exchange, no permission, or no answer.
    """
    return await ctx.state.publish(events)


def begin_batch(hub, ctx, events):
    """Publish events at once and return the future of their outcomes; None when that would have to wait."""
    return ctx.state.begin(events)


async def request(hub, ctx, event, timeout):
    """Publish an event and return the reply to it, an Envelope; RabbitMQ's direct reply-to brings it.

    The broker drops the request when nobody has taken it within ``timeout`` seconds.

    :raises DeliveryTimeout: no reply came in time.
    :raises Rejected: unroutable, or not to be carried by AMQP.
    :raises Unavailable: no connection in time; or it, or the channel, was lost before the reply came.
    """
    return await ctx.state.request(event, timeout)


async def reply(hub, ctx, address, event):
    """Publish an event to whoever waits at ``address``, the header ``reply-to`` of a delivery.

    :raises Rejected: the queue is gone. With direct reply-to RabbitMQ does not tell who waits no longer.
    :raises Unavailable: no connection, or no answer of the broker.
    """
    await ctx.state.reply(address, event)


async def close_(hub, ctx):
    """Close the channels, and the connection unless others use it."""
    if ctx.state is not None:
        try:
            await ctx.state.close()
        finally:
            await hub.connection.amqp.close(ctx.state.connection)


def describe(hub, profile):
    """Return what the broker does with a profile, a :class:`evbus.types.Transport`."""
    from evbus.engine.wire.amqp import describe as _describe

    return _describe.describe(profile)
