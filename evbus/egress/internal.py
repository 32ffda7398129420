"""Consume, in this process, what is delivered to the provider ``internal``.

What a subscription gets does not go to the queues of ``hub.ingress.internal``.
"""

from evbus.engine.wire.memory import groups as _groups


def __init__(hub):
    hub.egress.internal.ACCT = ["internal"]
    hub.egress.internal.PROFILE = _groups.InternalProfile
    hub.egress.internal.PATTERNS = True


async def consume(hub, ctx, subscription):
    """Yield deliveries until closed.

    Subscriptions of one name and group share the events, others get one each. What is not settled, and what
    comes while nobody of a group consumes, waits for the next of the group if the subscription is durable.
    """
    subscribers, wanted = _state(hub, ctx, subscription)
    async for delivery in subscribers.deliveries(wanted):
        yield delivery


def attach(hub, ctx, subscription, take):
    """Hand deliveries to ``take([delivery, ...])`` from now on, as :func:`consume` yields them.

    :returns: an object with ``pause()``, which lets nothing more come, and ``end()``, which gives back what
        is not settled.
    """
    subscribers, wanted = _state(hub, ctx, subscription)
    return subscribers.attach(wanted, take)


def _state(hub, ctx, subscription):
    if ctx.name not in hub.ingress.SUBSCRIBERS:
        hub.ingress.SUBSCRIBERS[ctx.name] = _groups.Subscribers(hub.connection.WEIGHT)
    return hub.ingress.SUBSCRIBERS[ctx.name], _groups.renamed(subscription, ctx.profile.routing_key)


def held(hub):
    """Count the events that consumers have not settled, or that wait for a consumer that there is."""
    return sum(each.held() for each in hub.ingress.SUBSCRIBERS.values())


def resume(hub):
    """End the subscriptions that :func:`close` has closed, and that nobody consumes again."""
    for each in hub.ingress.SUBSCRIBERS.values():
        each.resume()


def close(hub, lost):
    """Hand what waits, and what comes while nobody consumes it, to ``lost(group, [envelope, ...])``."""
    for each in hub.ingress.SUBSCRIBERS.values():
        each.close(lost)
