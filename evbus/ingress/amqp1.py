"""Events to the queues and topics of an AMQP 1.0 broker: Artemis, RabbitMQ. Needs the extra ``amqp1``.

The keys of a profile are documented at :class:`evbus.engine.wire.amqp1.profile.Profile`.
"""

from evbus.engine.wire.amqp1.profile import Profile
from evbus.types import Envelope

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    hub.ingress.amqp1.ACCT = ["amqp1"]
    hub.ingress.amqp1.PROFILE = Profile


async def open_(hub, ctx):
    """Connect, or share the connection of the profile.

    :raises MissingExtra: python-qpid-proton is not installed.
    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    :raises ProfileError: a file of ``tls`` is not usable.
    """
    connection = await hub.connection.amqp1.open(ctx)

    from evbus.engine.wire.amqp1 import publish as _publish

    return _publish.Publisher(connection, ctx.profile)


def ready(hub, ctx):
    """Return None when events can be taken now, else why not, and what to await until they can."""
    return ctx.state.connection.ready()


async def publish(hub, ctx, routing_key, body, headers=None):
    """Send one event; it is delivered when the broker has accepted it.

    :raises Rejected: AMQP cannot carry a header or the routing key, or the broker refused the event.
    :raises DeliveryError: the broker gave it back to be tried again, or ended the link.
    :raises Unavailable: not connected, lost before the outcome, or none within ``settle_timeout``.
    """
    event = Envelope(ctx.name, routing_key, body, headers or {})
    outcome = (await ctx.state.publish([event]))[0]
    if outcome is not None:
        raise outcome


async def publish_batch(hub, ctx, events):
    """Send many events with few writes; returns None or the exception for each, in order."""
    return await ctx.state.publish(events)


async def close_(hub, ctx):
    """Give the connection up; the last one that does closes it."""
    if ctx.state is not None:
        await hub.connection.amqp1.close(ctx.state.connection)


def describe(hub, profile):
    """Return what the broker does with a profile, a :class:`evbus.types.Transport`."""
    from evbus.engine.wire.amqp1 import describe as _describe

    return _describe.describe(profile)
