"""Consume from RabbitMQ, or another AMQP 0-9-1 broker.

The keys of a profile are documented at :class:`evbus.connection._amqp_profile.Profile`, and which queue a
subscription consumes from at :func:`evbus.egress._amqp.source_of`.
"""

import contextlib

from evbus.connection import _amqp_profile


def __init__(hub):
    hub.egress.amqp.ACCT = ["amqp", "rabbitmq", "pika"]
    hub.egress.amqp.PROFILE = _amqp_profile.Profile
    hub.egress.amqp.READY = True
    hub.egress.amqp.PATTERNS = True


async def consume(hub, ctx, subscription):
    """Yield deliveries, each to be settled by ``ack()`` or ``reject()``; acknowledgements go out together.

    :raises ConnectFailed: there is no connection, or the broker refuses the queue; unless the profile says
        ``first_connect: wait``. Later the consumer is restored for ever.
    :raises ProfileError: the profile has no queue or exchange for the subscription.
    """
    from evbus.egress import _amqp

    connection = await hub.connection.amqp.open(ctx, "consumers")
    try:
        consumer = _amqp.Consumer(connection, ctx.profile, ctx.name, subscription)
        async with contextlib.aclosing(consumer.deliveries()) as deliveries:
            async for delivery in deliveries:
                yield delivery
    finally:
        await hub.connection.amqp.close(connection)
