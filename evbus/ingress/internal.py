"""Deliver to queues in this process: one for each routing key.

.. code-block:: yaml

    internal:
      default: {}
      orders.*:
        routing_key: orders     # default: the event's own routing key
        limit: 10000            # publishing waits while the queue holds as many; 0, the default: no limit

A queue that nobody has asked for (:func:`get`) or taken from holds 10,000 bodies, and all of these together
half of the option ``queue_bytes``; then the oldest are dropped, and counted in the lane's ``dropped``. So it
is with what waits for a durable listener that is not there. Listeners in this process have 10,000 events
each, or ``limit``; then who sends waits.
"""

from evbus.engine.wire.memory import queues as _queues
from evbus.types import Envelope, Host, Transport


def __init__(hub):
    """Keep the queues on the sub, so that they outlive a rebuild of it."""
    if "INTERNAL" not in vars(hub.ingress):
        hub.ingress.INTERNAL = _queues.Queues(hub.connection.WEIGHT)
        #: By the name of a profile: the subscriptions to what comes through it.
        hub.ingress.SUBSCRIBERS = {}
    hub.ingress.internal.QUEUE = hub.ingress.INTERNAL
    hub.ingress.internal.ACCT = ["internal"]
    hub.ingress.internal.PROFILE = _queues.InternalProfile


async def get(hub, routing_key=None):
    """Return the ``asyncio.Queue`` of a routing key; None is the queue of events without one."""
    return _queues.queue(hub.ingress.INTERNAL, routing_key)


def _taps(hub, ctx):
    return hub.ingress.SUBSCRIBERS.get(ctx.name, {})


async def publish(hub, ctx, routing_key, body, headers=None):
    """Put the body of one event on its queue."""
    outcomes = await _queues.put_all(
        hub.ingress.INTERNAL,
        _taps(hub, ctx),
        ctx.profile.limit,
        [Envelope(ctx.name, routing_key, body, headers or {})],
        ctx.name,
    )
    if outcomes[0] is not None:
        raise outcomes[0]


async def publish_batch(hub, ctx, events):
    """Put the bodies of many events on their queues."""
    return await _queues.put_all(hub.ingress.INTERNAL, _taps(hub, ctx), ctx.profile.limit, events, ctx.name)


def publish_nowait(hub, ctx, events):
    """Put the bodies of many events on their queues at once, if the profile has no limit.

    :returns: how many bodies were dropped for them, in queues that nobody has asked for.
    """
    name = ctx.name
    taps = hub.ingress.SUBSCRIBERS.get(name, {})
    return _queues.put_now(hub.ingress.INTERNAL, taps, ctx.profile.limit, events, name)


def describe(hub, profile):
    """Return what there is to say of a profile."""
    here = Host("localhost", "internal", description="within the process")
    return Transport([here], topics=True, groups=True, copies=True)
