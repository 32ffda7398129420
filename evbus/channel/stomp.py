"""Calls over a broker that speaks STOMP, RabbitMQ or ActiveMQ: a queue for each component and each caller."""


def __init__(hub):
    """Say that a broker is between the two ends."""
    hub.channel.stomp.BROKER = True


def address(hub, ctx, component):
    """Return the name of the queue of a component."""
    return ctx.profile.queue_of(ctx.name, component)


def check(hub, ctx):
    """Look for the profile.

    :raises ProfileError: there is none, or it is of another provider; names the nearest.
    """
    hub.channel.init.broker(ctx, "stomp")


async def open(hub, ctx):  # noqa: A001 - the name of the step in all rooms
    """Return what makes calls; it connects with the first of them.

    :raises ProfileError: see :func:`check`.
    """
    return hub.channel.init.caller(ctx, "stomp")


async def invoke(hub, ctx, call, address):
    """Make a call; return its result."""
    return await ctx.state.invoke(call, address)


async def close(hub, ctx):
    """Close its connection."""
    await ctx.state.close()


async def serve(hub, ctx, served):
    """Take calls of components from their queues.

    :raises ConnectFailed: there is no connection, and the profile does not say ``first_connect: wait``.
    """
    return await hub.channel.init.queues(ctx, "stomp", served)
