async def open(hub, ctx):  # noqa: A001 - the name of the step in all rooms
    """Read ``{component: {channel: [address, ...]}}``, or one address in place of a list.

    :raises ProfileError: it is no such mapping; names the key.
    """
    from evbus.engine.service import settings as _settings

    http = [name for name, served in hub.channel.init.names().items() if served]
    return _settings.static_addresses(ctx.acct, http)


async def watch(hub, ctx, component):
    """Yield the addresses of a component, once: they do not change."""
    if component in ctx.state:
        yield ctx.state[component]


async def components(hub, ctx):
    """Return the components that are listed."""
    return list(ctx.state)
