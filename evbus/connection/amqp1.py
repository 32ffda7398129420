"""Connections to AMQP 1.0 brokers such as Artemis and RabbitMQ. Needs the extra ``amqp1``.

The keys of a profile are documented at :class:`evbus.engine.wire.amqp1.profile.Profile`.
"""

__func_alias__ = {"open_": "open", "close_": "close"}


async def open_(hub, ctx, role="lanes"):
    """Return the connection of the profile for its ``lanes`` or its ``consumers``, opened and shared by them.

    :raises MissingExtra: python-qpid-proton is not installed.
    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    :raises ProfileError: a file of ``tls`` is not usable.
    """
    # Here, as the client library is an extra, and importing it takes a moment.
    from evbus.engine.wire.amqp1 import connect as _connect

    return await hub.connection.init.share(
        "amqp1", ctx, lambda: _connect.connection(ctx.profile, ctx.name, ctx.provider), role
    )


async def close_(hub, connection):
    """Give up the use of a connection; the last one that does closes it."""
    await hub.connection.init.release(connection)
