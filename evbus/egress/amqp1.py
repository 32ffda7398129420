"""Events from the queues and topics of an AMQP 1.0 broker: Artemis, RabbitMQ. Needs the extra ``amqp1``.

The keys of a profile are documented at :class:`evbus.engine.wire.amqp1.profile.Profile`.
"""

from evbus.engine.wire.amqp1.profile import Profile


def __init__(hub):
    hub.egress.amqp1.ACCT = ["amqp1"]
    hub.egress.amqp1.PROFILE = Profile
    hub.egress.amqp1.READY = True
    hub.egress.amqp1.PATTERNS = True


def check(hub, ctx, subscription):
    """Raise ProfileError for a subscription that the address cannot give, once the broker is known."""
    from evbus.engine.wire.amqp1 import address as _address
    from evbus.engine.wire.amqp1 import connect as _connect

    session = hub.connection.init.session("amqp1", ctx)
    if session is not None:
        _address.source(ctx.profile, _connect.model(ctx.profile, session), subscription)


async def consume(hub, ctx, subscription):
    """Yield deliveries of a queue until closed; what is not settled then comes again.

    :raises MissingExtra: python-qpid-proton is not installed.
    :raises ConnectFailed: there is no connection (unless the profile says ``first_connect: wait``), or the
        broker refuses the link.
    :raises ProfileError: the address cannot give what the subscription wants.
    """
    connection = await hub.connection.amqp1.open(ctx, "consumers")
    try:
        from evbus.engine.wire.amqp1 import consume as _consume

        async with _consume.Consumer(connection, ctx.profile, ctx.name, subscription) as consumer:
            while await consumer.arrival():
                while consumer.waiting:
                    yield consumer.waiting.popleft()
    finally:
        await hub.connection.amqp1.close(connection)
