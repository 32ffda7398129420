"""Publish to RabbitMQ, or another AMQP 0-9-1 broker; delivered is what the broker has confirmed.

The keys of a profile are documented at :class:`evbus.connection._amqp_profile.Profile`.
"""

from evbus import types
from evbus.connection import _amqp_profile

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    hub.ingress.amqp.ACCT = ["amqp", "rabbitmq", "pika"]
    hub.ingress.amqp.SOLE = True
    hub.ingress.amqp.OVERLAP = True
    hub.ingress.amqp.PROFILE = _amqp_profile.Profile


async def open_(hub, ctx):
    """Return the publisher of one profile: its connection open, its exchange and queue declared.

    :raises ConnectFailed: there is no connection, or the broker refuses the exchange or the queue; unless
        the profile says ``first_connect: wait``.
    """
    from evbus.ingress import _amqp

    connection = await hub.connection.amqp.open(ctx)
    publisher = _amqp.Publisher(connection, ctx.profile)
    try:
        await publisher.open()
    except BaseException:
        await hub.connection.amqp.close(connection)
        raise
    return publisher


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


async def close_(hub, ctx):
    """Close the channel, and the connection unless others use it."""
    if ctx.state is not None:
        try:
            await ctx.state.close()
        finally:
            await hub.connection.amqp.close(ctx.state.connection)
