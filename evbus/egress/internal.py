"""Consume, in this process, what is delivered to the provider ``internal``.

What a subscription gets does not go to the queues of ``hub.ingress.internal``.
"""

from evbus.connection import _internal as _shared
from evbus.egress import _internal


def __init__(hub):
    hub.egress.internal.ACCT = ["internal"]
    hub.egress.internal.PROFILE = _shared.InternalProfile
    if "GROUPS" not in vars(hub.egress):
        hub.egress.GROUPS = {}


async def consume(hub, ctx, subscription):
    """Yield deliveries until closed.

    Subscriptions of one name and group share the events, others get one each. What is not settled, and what
    comes while nobody of a group consumes, waits for the next of the group if the subscription is durable.
    """
    async for delivery in _internal.deliveries(hub.egress.GROUPS, hub.ingress.TAPS, subscription):
        yield delivery


def attach(hub, ctx, subscription, take):
    """Hand deliveries to ``take([delivery, ...])`` from now on, as :func:`consume` yields them.

    :returns: an object with ``pause()``, which lets nothing more come, and ``end()``, which gives back what
        is not settled.
    """
    return _internal.attach(hub.egress.GROUPS, hub.ingress.TAPS, subscription, take)


def held(hub):
    """Return how many events consumers have not settled, or wait for one that there is."""
    return _internal.held(hub.egress.GROUPS)


def resume(hub):
    """End the subscriptions that :func:`close` has closed, and that nobody consumes again."""
    _internal.resume(hub.egress.GROUPS)


def close(hub, lost):
    """Hand the envelopes that wait, and those that come while nobody consumes them, to ``lost(group, [...])``."""
    _internal.close(hub.egress.GROUPS, lost)
