from dict_tools.data import SafeNamespaceDict

from evbus import errors
from evbus.engine.core.plugins import face as _face


def names(hub):
    """Return the channels that are loaded, by name: whether their other end is the HTTP server of evbus.

    Those that the option ``services`` has settings for come first, as they stand there.
    """
    found = {_name(module): bool(getattr(module, "HTTP", False)) for module in _modules(hub)}
    chosen = hub.service.SERVICES.settings.channels
    return {name: found[name] for name in (*(one for one in chosen if one in found), *found)}


def settings(hub, name, services):
    """Return what every channel may be told, of the channel ``name``; see :func:`check`."""
    return _read(hub, name, services)[0]


def check(hub, services):
    """Check the settings of all channels.

    :raises ProfileError: there is no such channel, or a key is wrong; names the nearest.
    """
    known = hub.channel.init.names()
    for name in services.channels:
        if name not in known:
            broken = {_wire(each.name): each for each in hub.evbus.init.plugins()["channel"]}
            why = f": {broken[name].error()}" if name in broken else errors.absent(name, known)
            raise errors.ProfileError(
                f"there is no channel {name!r}{why}", source="services", path=f"channels.{name}"
            )
        _read(hub, name, services)


async def open(hub, name, services):  # noqa: A001 - the name of the step in all rooms
    """Open a channel; return it, and what closes it."""
    from evbus.engine.service import authenticate as _authenticate
    from evbus.engine.service import remote as _remote

    plugin = next(module for module in _modules(hub) if _name(module) == name)
    common, own = _read(hub, name, services)
    functions = {key: _face.direct(each) for key, each in plugin._funcs.items()}
    ctx = SafeNamespaceDict(profile=own, name=name, state=None)
    if "open" in functions:
        ctx.state = await functions["open"](ctx)
    invoke, stream = functions["invoke"], functions.get("stream")

    async def close():
        if "close" in functions:
            await functions["close"](ctx)

    return (
        _remote.OpenChannel(
            name,
            common,
            lambda call, address: invoke(ctx, call, address),
            None if stream is None else lambda call, address: stream(ctx, call, address),
            _authenticate.token_of(common, f"channels.{name}"),
        ),
        close,
    )


def serves(hub, services):
    """Return whether a channel that has settings takes calls by itself, so that they need no HTTP server."""
    return any("serve" in module._funcs for module in _modules(hub) if _name(module) in services.channels)


def brokered(hub, services, component):
    """Yield where a component is called over brokers: channel, profile, address and content type.

    They are the channels that have settings, and say themselves where components are.
    """
    for name in services.channels:
        plugin = next((module for module in _modules(hub) if _name(module) == name), None)
        if plugin is None or "address" not in plugin._funcs:
            continue
        own = _read(hub, name, services)[1]
        ctx = SafeNamespaceDict(profile=own, name=name, state=None)
        address = _face.direct(plugin._funcs["address"])(ctx, component)
        kind = "application/json" if getattr(own, "encoding", "") == "json" else "application/msgpack"
        yield name, getattr(own, "profile", "default"), address, kind


def _modules(hub):
    return [module for module in hub.channel if module.__name__ != "init"]


def _name(module):
    return _wire(module.__name__)


def _wire(name):
    return name.replace("_", "-")


def _read(hub, name, services):
    """Return the settings of a channel: what each may be told, and what it has of its own."""
    from evbus.engine.service import settings as _settings

    plugin = next((module for module in _modules(hub) if _name(module) == name), None)
    http = _settings.HttpSettings if getattr(plugin, "HTTP", False) else None
    return _settings.channel_settings(name, services.channels.get(name), getattr(plugin, "PROFILE", http))
