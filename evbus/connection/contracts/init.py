"""The interface of a connection plugin: live, shared, self-healing connections, two to a profile.

``open`` returns the :class:`evbus.connection._supervisor.Connection` of a profile, the same for all lanes, or
all consumers, that use it, and ``close`` gives it up; the last one that does ends it. What the connection is
doing is told by ``hub.connection.init.states()`` and under ``connections`` in
``hub.evbus.stats.snapshot()``.
"""


async def sig_open(hub, ctx, *args, **kwargs):
    """Return the connection of the profile ``ctx``, opened.

    A parameter ``role`` may follow, ``lanes`` or ``consumers``, for which evbus's own transports have a
    connection each.
    """


async def sig_close(hub, connection):
    """Give up the use of a connection."""
