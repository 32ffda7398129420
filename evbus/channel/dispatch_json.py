import contextlib as _contextlib

from evbus.engine.service import callers as _callers


def __init__(hub):
    """Say that the HTTP server is the other end."""
    hub.channel.dispatch_json.HTTP = True


async def open(hub, ctx):  # noqa: A001 - the name of the step in all rooms
    """Return what makes calls by ``POST /invoke``, in JSON; it connects with the first of them.

    :raises MissingExtra: the extra ``service`` is not installed.
    """
    return _callers.http_caller(ctx.name, ctx.profile)


async def invoke(hub, ctx, call, address):
    """Make a call; return its result."""
    return await ctx.state.invoke(call, address)


async def stream(hub, ctx, call, address):
    """Make a call; yield what its method yields."""
    async with _contextlib.aclosing(ctx.state.stream(call, address)) as items:
        async for item in items:
            yield item


async def close(hub, ctx):
    """Close its connections."""
    await ctx.state.close()
