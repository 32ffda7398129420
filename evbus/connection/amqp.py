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


async def client(hub, profile, contexts=None, timeout=30.0):
    """Return the connection of a profile as an ``aio_pika.Connection`` that heals, for plugins of one's own.

    It is the connection of the profile's lanes. A channel ends when it is lost, and one that is opened later
    waits until it is restored. Close it when it is needed no more; the end of the bus does so, too.

    :param profile: the profile's name, or ``provider.name`` when several providers have one of that name.
    :param contexts: the profiles; default: those that the bus was started with.
    :param timeout: seconds to wait for the connection at most; None: for ever. In a plugin's ``publish`` it
        waits no longer than that may take (``delivery.timeout``).
    :raises ConfigError: there is no such profile, or it is none of RabbitMQ; no bus was started, and no
        ``contexts`` are given.
    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    :raises Unavailable: there is no connection by then; says why.
    :raises ValueError: the timeout is no number of seconds.
    """
    from evbus.engine.wire.amqp import healed as _healed

    ctx = hub.connection.init.context("amqp", profile, contexts)
    connection = await hub.connection.amqp.open(ctx)

    async def release():
        hub.connection.CLIENTS.discard(made)
        await hub.connection.amqp.close(connection)

    made = _healed.HealedConnection(connection, release)
    hub.connection.CLIENTS.add(made)
    try:
        await made.connect(timeout)
    except BaseException:
        await made.close()
        raise
    return made
