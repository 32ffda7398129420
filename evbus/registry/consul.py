import contextlib as _contextlib

from evbus.engine.core import profiles as _profiles
from evbus.engine.service import callers as _callers


async def open(hub, ctx):  # noqa: A001 - the name of the step in all rooms
    """Return what asks Consul; it connects with the first question.

    :raises MissingExtra: the extra ``service`` is not installed.
    :raises ProfileError: the settings have to be mended.
    """
    try:
        from evbus.engine.service import consul as _consul
    except ModuleNotFoundError as exc:
        raise _callers.missing(exc, "the registry consul") from exc
    settings = _profiles.convert(ctx.acct, _consul.ConsulSettings, "services", "registry.consul")
    return _consul.Consul(settings, ctx.health_path, ctx.status)


async def watch(hub, ctx, component):
    """Yield the addresses of a component whose checks pass, and again whenever they change."""
    async with _contextlib.aclosing(ctx.state.watch(component)) as found:
        async for addresses in found:
            yield addresses


async def register(hub, ctx, component, addresses):
    """Make a component known, and keep it so."""
    await ctx.state.register(component, addresses)


async def deregister(hub, ctx, component):
    """Make known that a component is gone."""
    await ctx.state.deregister(component)


async def components(hub, ctx):
    """Return the components that Consul has, whether their checks pass or not."""
    return await ctx.state.components()


async def close(hub, ctx):
    """Close its connections."""
    await ctx.state.close()
