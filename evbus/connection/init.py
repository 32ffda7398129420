"""Which connections are open; one for each transport and profile, for all who use it."""

from evbus.connection import _shared


def __init__(hub):
    """Declare the state; when POP rebuilds the sub this runs again and keeps what there is."""
    if "SHARED" not in vars(hub.connection):
        hub.connection.SHARED = _shared.Shared()


async def share(hub, transport, ctx, make):
    """Return the open connection of a profile, made by ``make()`` when nobody uses it yet.

    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    """
    key = _shared.key_of(transport, ctx.provider, ctx.name, ctx.profile)
    return await hub.connection.SHARED.open(key, make)


async def release(hub, connection):
    """Give up the use of a connection; the last one closes it."""
    await hub.connection.SHARED.close(connection)


def states(hub):
    """Return every connection's ``state``, ``since``, ``connects``, ``blocked`` and ``last_error``."""
    return hub.connection.SHARED.snapshot()
