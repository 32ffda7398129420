"""Events to queues and topics of a STOMP 1.2 broker: RabbitMQ with its plugin, ActiveMQ.

The keys of a profile are documented at :class:`evbus.engine.wire.stomp.profile.Profile`.
"""

from evbus.engine.wire.stomp.profile import Profile
from evbus.types import Envelope

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    hub.ingress.stomp.ACCT = ["stomp"]
    hub.ingress.stomp.PROFILE = Profile


async def open_(hub, ctx):
    """Connect, or share the connection of the profile.

    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    :raises ProfileError: a file of ``tls`` is not usable.
    """
    from evbus.engine.wire.stomp import requests as _requests

    return _requests.Requester(await hub.connection.stomp.open(ctx), ctx.profile, ctx.name)


def ready(hub, ctx):
    """Return None when events can be taken now, else why not, and what to await until they can."""
    return ctx.state.connection.ready()


async def publish(hub, ctx, routing_key, body, headers=None):
    """Send one event; it is delivered when its receipt has come.

    :raises Rejected: STOMP cannot carry a header or the routing key, or the broker refused the event.
    :raises Unavailable: not connected, lost before the receipt, or no receipt within ``receipt_timeout``.
    """
    event = Envelope(ctx.name, routing_key, body, headers or {})
    outcome = (await ctx.state.publish([event]))[0]
    if outcome is not None:
        raise outcome


async def publish_batch(hub, ctx, events):
    """Send many events with few writes; returns None or the exception for each, in order."""
    return await ctx.state.publish(events)


async def request(hub, ctx, event, timeout):
    """Send an event and return the reply to it, an envelope; ``timeout`` is in seconds.

    :raises DeliveryTimeout: no reply came in time.
    :raises Rejected: STOMP cannot carry a header or the routing key, or the broker refused the event.
    :raises Unavailable: no connection within ``timeout``, or it was lost before the reply: then it is not
        known whether the event was handled.
    """
    return await ctx.state.request(event, timeout)


async def reply(hub, ctx, address, event):
    """Send an event to whoever waits at an address, which is the header ``reply-to`` of a request.

    Its headers have to hold the request's ``correlation-id``. RabbitMQ gives a receipt although nobody waits
    there any more; ActiveMQ refuses the event.

    :raises Rejected: there is no such address, or STOMP cannot carry a header.
    :raises Unavailable: not connected, lost before the receipt, or no receipt within ``receipt_timeout``.
    """
    await ctx.state.reply(address, event)


async def close_(hub, ctx):
    """End the requests, and give the connection up; the last one that does closes it."""
    if ctx.state is not None:
        try:
            await ctx.state.close()
        finally:
            await hub.connection.stomp.close(ctx.state.connection)


def describe(hub, profile):
    """Return what the broker does with a profile, a :class:`evbus.types.Transport`."""
    from evbus.engine.wire.stomp import describe as _describe

    return _describe.describe(profile)
