"""The interface of a connection plugin: live, shared, self-healing connections, two to a profile.

``async def open(hub, ctx)``
    Returns the :class:`evbus.engine.wire.base.supervisor.Connection` of the profile ``ctx``, opened: the
    same for
    all lanes, or all consumers, that use it. A parameter ``role`` may follow, ``lanes`` or ``consumers``, for
    which evbus's own transports have a connection each.
``async def close(hub, connection)``
    Gives up the use of a connection; the last one that does ends it.

``hub.connection.amqp.client(profile)`` hands out the connection of a profile as one of aio-pika.

What the connection is doing is told by ``hub.connection.init.states()`` and under ``connections`` in
``hub.evbus.stats.snapshot()``.
"""
