"""Connections to AMQP 0-9-1 brokers such as RabbitMQ.

The keys of a profile are documented at :class:`evbus.engine.wire.amqp.profile.Profile`.
"""

__func_alias__ = {"open_": "open", "close_": "close"}


async def open_(hub, ctx, role="lanes"):
    """Return the connection of the profile for its ``lanes`` or its ``consumers``, opened and shared by them.

    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    :raises ProfileError: a file of ``tls`` is not usable.
    """
    # Here, as importing the client library takes a tenth of a second that others need not wait for.
    from evbus.engine.wire.amqp import connect as _connect

    return await hub.connection.init.share(
        "amqp", ctx, lambda: _connect.connection(ctx.profile, ctx.name, ctx.provider, role), role
    )


async def close_(hub, connection):
    """Give up the use of a connection; the last one that does closes it."""
    await hub.connection.init.release(connection)
