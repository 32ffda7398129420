"""Consume from RabbitMQ, or another AMQP 0-9-1 broker.

The keys of a profile are documented at :class:`evbus.engine.wire.amqp.profile.Profile`, and which queue a
subscription consumes from at :func:`evbus.engine.wire.amqp.consume.source_of`.
"""

from evbus.engine.wire.amqp import profile as _profile


def __init__(hub):
    hub.egress.amqp.ACCT = ["amqp", "rabbitmq", "pika"]
    hub.egress.amqp.PROFILE = _profile.Profile
    hub.egress.amqp.READY = True
    hub.egress.amqp.PATTERNS = True


def check(hub, ctx, subscription):
    """Raise ProfileError for a subscription that the profile has no queue or exchange for."""
    from evbus.engine.wire.amqp import consume as _consume

    _consume.source_of(ctx.profile, subscription)


async def consume(hub, ctx, subscription):
    """Yield deliveries, each to be settled by ``ack()`` or ``reject()``; acknowledgements go out together.

    :raises ConnectFailed: there is no connection, or the broker refuses the queue; unless the profile says
        ``first_connect: wait``. Later the consumer is restored for ever.
    :raises ProfileError: the profile has no queue or exchange for the subscription.
    """
    from evbus.engine.wire.amqp import consume as _consume

    connection = await hub.connection.amqp.open(ctx, "consumers")
    try:
        async with _consume.Consumer(connection, ctx.profile, ctx.name, subscription) as consumer:
            while await consumer.arrival():
                while consumer.waiting:
                    yield consumer.waiting.popleft()
    finally:
        await hub.connection.amqp.close(connection)
