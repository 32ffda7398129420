"""The open connections: for each transport and profile one for its lanes and one for its consumers."""

from evbus import errors
from evbus.engine.kit import weight as _weight
from evbus.engine.wire.base import shared as _shared


def __init__(hub):
    """Declare the state; when POP rebuilds the sub this runs again and keeps what there is."""
    if "SHARED" not in vars(hub.connection):
        # The room may be alone on a hub, without a bus to observe.
        observed = hub.evbus.OBSERVERS.connection if hasattr(hub, "evbus") else None
        hub.connection.SHARED = _shared.Shared(observed)
        #: Clients of plugin authors that are open, each with ``close()``.
        hub.connection.CLIENTS = set()
        #: Of bodies that wait in this process behind the lanes; they count against the bound of the bus.
        hub.connection.WEIGHT = _weight.Weight()


async def share(hub, transport, ctx, make, role="lanes"):
    """Return the open connection of a profile, made by ``make()`` when nobody uses it yet.

    ``role`` is ``lanes`` or ``consumers``: they have a connection each, as a broker under an alarm stops to
    read the one that publishes.

    :raises ConnectFailed: the first attempt failed, and the profile does not say ``first_connect: wait``.
    """
    key = _shared.key_of(transport, ctx.provider, ctx.name, ctx.profile, role)
    return await hub.connection.SHARED.open(key, make)


def expect(hub, transport, ctx, consumer):
    """Let the lanes of a profile's broker wait for a consumer that is about to come, a few seconds at most.

    Returns what is to be called once it is there, or will never be.
    """
    key = _shared.key_of(transport, ctx.provider, ctx.name, ctx.profile)
    return hub.connection.SHARED.expect(key, consumer)


def session(hub, transport, ctx):
    """Return the session of a profile's connection, which knows its broker; None while there is none."""
    key = _shared.key_of(transport, ctx.provider, ctx.name, ctx.profile)
    return hub.connection.SHARED.session(key)


async def release(hub, connection):
    """Give up the use of a connection; the last one closes it."""
    await hub.connection.SHARED.close(connection)


def context(hub, plugin, wanted, contexts=None):
    """Return the ``ctx`` of the profile called ``wanted``, or ``provider.name``, of an ingress plugin.

    :param contexts: the profiles; default: those that the bus was started with.
    :raises ConfigError: there is none, there are several, or it is another plugin's.
    """
    profiles = hub.evbus.init.check(hub.evbus.rpc.contexts(contexts))
    found = [one for one in profiles if wanted in (one.name, one.full_name)]
    if not found:
        raise errors.ProfileError(
            f"there is no profile {wanted!r}{errors.nearest(wanted, [one.name for one in profiles])}"
        )
    able = [one for one in found if one.plugin.name == plugin]
    if not able:
        raise errors.ProfileError(
            f"the profile {wanted!r} is one of the plugin {found[0].plugin.name!r}, not of {plugin!r}",
            path=found[0].path,
        )
    if len(able) > 1:
        choices = " or ".join(one.full_name for one in able)
        raise errors.ProfileError(f"several profiles are called {wanted!r}; say {choices}")
    return able[0].context()


async def stop(hub):
    """Close the clients that are still open."""
    for client in list(hub.connection.CLIENTS):
        await client.close()


def states(hub):
    """Return every connection's ``state``, ``since``, ``connects``, ``blocked`` and ``last_error``."""
    return hub.connection.SHARED.snapshot()
