from collections.abc import Mapping

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
    from evbus.engine.service import messages as _messages
    from evbus.engine.service import remote as _remote

    plugin = _plugin(hub, name)
    functions = {key: _face.direct(each) for key, each in plugin._funcs.items()}
    common, ctx = hub.channel.init.settings(name, services), _context(hub, name, services)
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
            [_name(module) for module in _modules(hub) if "stream" in module._funcs],
            _messages.SILENT if getattr(plugin, "BROKER", False) else "",
        ),
        close,
    )


def serves(hub, services):
    """Return whether a channel that has settings takes calls by itself, so that they need no HTTP server."""
    return any("serve" in module._funcs for module in _modules(hub) if _name(module) in services.channels)


async def serve(hub, name, services, served):
    """Have a channel take calls of this process' components; return what stops that, None for nothing."""
    plugin = _plugin(hub, name)
    if plugin is None or "serve" not in plugin._funcs:
        return None
    return await _face.direct(plugin._funcs["serve"])(_context(hub, name, services), served)


def reached(hub, services, component):
    """Yield where a component is called over the channels that have settings, and know it by themselves."""
    from evbus.engine.service import declare as _declare

    for name, _, address, _ in hub.channel.init.brokered(services, component):
        yield _declare.ChannelAddress(name, address)


def check_profiles(hub, services, client):
    """Check that channels over brokers which have settings have their profiles, too.

    :param client: nobody is served: where there are no profiles at all, calls tell so.
    :raises ConfigError: one has none.
    """
    if client and hub.service.PROFILES is None and hub.evbus.CONTEXTS is None:
        return
    for name in services.channels:
        plugin = _plugin(hub, name)
        if plugin is not None and "check" in plugin._funcs:
            _face.direct(plugin._funcs["check"])(_context(hub, name, services))


def broker(hub, ctx, plugin):
    """Return the profile that a channel over a broker uses, as contexts, its full name, and its settings.

    :param plugin: the name of the ingress plugin that it has to be one of.
    :raises ConfigError: there is no such profile; names the nearest.
    """
    from evbus.engine.service import queues as _queues

    contexts = hub.service.PROFILES
    contexts = hub.evbus.CONTEXTS if contexts is None else contexts
    wanted, path = ctx.profile.profile, f"channels.{ctx.name}.profile"
    if contexts is None:
        raise errors.ProfileError(
            f"the channel {ctx.name} needs the profile {wanted!r}, and there are no profiles: pass some with "
            "profiles=, or start the bus before the services",
            source="services",
            path=path,
        )
    profiles = hub.evbus.init.check(contexts)
    found = [one for one in profiles if wanted in (one.name, one.full_name)]
    able = [one for one in found if one.plugin.name == plugin]
    if not able:
        hint = errors.nearest(wanted, [one.name for one in profiles if one.plugin.name == plugin])
        why = f"there is no profile {wanted!r}{hint}"
        if found:
            needs = f"the channel {ctx.name} needs one of {plugin}{hint}"
            why = f"the profile {wanted!r} is one of {found[0].provider}, and {needs}"
        raise errors.ProfileError(why, source="services", path=path)
    if len(able) > 1:
        choices = " or ".join(one.full_name for one in able)
        raise errors.ProfileError(
            f"several profiles are called {wanted!r}; say {choices}", source="services", path=path
        )
    (one,) = able
    return {one.provider: {one.name: _queues.CHANGES[plugin](one.data)}}, one.full_name, one.settings


def caller(hub, ctx, plugin):
    """Return what makes the calls of a channel over a broker; see :func:`broker`."""
    from evbus.engine.service import messages as _messages

    contexts, name, _ = hub.channel.init.broker(ctx, plugin)
    return _messages.MessageCaller(ctx.name, ctx.profile, hub.evbus.rpc.link(name, contexts))


async def queues(hub, ctx, plugin, served):
    """Take calls from the queues of components; return what stops that; see :func:`broker`."""
    from evbus.engine.service import serving as _serving

    contexts, name, settings = hub.channel.init.broker(ctx, plugin)

    def server():
        link = hub.evbus.rpc.link(name, contexts, replies=True)
        return _serving.MessageServer(link, served.hosted, served.guard, ctx.profile)

    def deliveries(wanted):
        return hub.evbus.bridge.consume(contexts, name, wanted, any_size=True)

    found = _serving.ServedQueues(ctx.name, server, deliveries, ctx.profile.concurrency)
    try:
        for component in served.components:
            queue = ctx.profile.queue_of(ctx.name, component)
            await found.serve(queue, at_once=settings.first_connect == "wait")
    except BaseException:
        await found.stop(0)
        raise
    return found


def brokered(hub, services, component):
    """Yield where a component is called over brokers: channel, profile, address and content type.

    They are the channels that have settings, and say themselves where components are.
    """
    for name in services.channels:
        plugin = _plugin(hub, name)
        if plugin is None or "address" not in plugin._funcs:
            continue
        ctx = _context(hub, name, services)
        own, address = ctx.profile, _face.direct(plugin._funcs["address"])(ctx, component)
        kind = "application/json" if getattr(own, "encoding", "") == "json" else "application/msgpack"
        yield name, getattr(own, "profile", "default"), address, kind


def _plugin(hub, name):
    return next((module for module in _modules(hub) if _name(module) == name), None)


def _context(hub, name, services):
    return SafeNamespaceDict(profile=_read(hub, name, services)[1], name=name, state=None)


def _modules(hub):
    return [module for module in hub.channel if module.__name__ != "init"]


def _name(module):
    return _wire(module.__name__)


def _wire(name):
    return name.replace("_", "-")


def _read(hub, name, services):
    """Return the settings of a channel: what each may be told, and what it has of its own."""
    from evbus.engine.service import settings as _settings

    plugin = _plugin(hub, name)
    data, known = services.channels.get(name), None
    if getattr(plugin, "HTTP", False):
        known = _settings.HttpSettings
    elif getattr(plugin, "BROKER", False):
        known = _settings.MessageSettings
        if isinstance(data, Mapping):
            data = {**_settings.OVER_BROKERS, **data}
    return _settings.channel_settings(name, data, getattr(plugin, "PROFILE", known))
