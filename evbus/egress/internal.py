"""Consume, in this process, what is delivered to the provider ``internal``.

What a subscription gets does not go to the queues of ``hub.ingress.internal``.
"""

from evbus.egress import _internal
from evbus.ingress import _internal as _queues


def __init__(hub):
    hub.egress.internal.ACCT = ["internal"]
    hub.egress.internal.PROFILE = _queues.InternalProfile
    if "GROUPS" not in vars(hub.egress):
        hub.egress.GROUPS = {}


async def consume(hub, ctx, subscription):
    """Yield deliveries until closed.

    Subscriptions of one name and group share the events, others get one each. What is not settled, and what
    comes while nobody of a group consumes, waits for the next of the group if the subscription is durable.
    """
    group = _internal.group_of(hub.egress.GROUPS, hub.ingress.TAPS, subscription)
    async for delivery in group.deliveries(subscription):
        yield delivery
