"""Events from queues and topics of a STOMP 1.2 broker: RabbitMQ with its plugin, ActiveMQ.

The keys of a profile are documented at :class:`evbus.engine.wire.stomp.profile.Profile`.
"""

from evbus.engine.wire.stomp.profile import Profile


def __init__(hub):
    hub.egress.stomp.ACCT = ["stomp"]
    hub.egress.stomp.PROFILE = Profile
    hub.egress.stomp.READY = True
    hub.egress.stomp.PATTERNS = True


def check(hub, ctx, subscription):
    """Raise ProfileError for a subscription that the destination cannot give, once the broker is known."""
    from evbus.engine.wire.stomp import consume as _consume

    session = hub.connection.init.session("stomp", ctx)
    if session is not None:
        _consume.plan(ctx.profile, subscription, session.broker)


async def consume(hub, ctx, subscription):
    """Yield deliveries of a queue or topic until closed; what is not settled then comes again.

    :raises ConnectFailed: there is no connection (unless the profile says ``first_connect: wait``), or the
        broker refuses the subscription.
    :raises ProfileError: the destination cannot give what the subscription wants.
    """
    from evbus.engine.wire.stomp import consume as _consume

    connection = await hub.connection.stomp.open(ctx, "consumers")
    try:
        async with _consume.Consumer(connection, ctx.profile, ctx.name, subscription) as consumer:
            while await consumer.arrival():
                while consumer.waiting:
                    yield consumer.waiting.popleft()
    finally:
        await hub.connection.stomp.close(connection)
