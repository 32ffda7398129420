from evbus.engine.service import callers as _callers


def __init__(hub):
    """Say that the HTTP server is the other end."""
    hub.channel.rest.HTTP = True


async def open(hub, ctx):  # noqa: A001 - the name of the step in all rooms
    """Return what makes calls of methods that have a path; it connects with the first of them.

    :raises MissingExtra: the extra ``service`` is not installed.
    """
    return _callers.http_caller(ctx.name, ctx.profile)


async def invoke(hub, ctx, call, address):
    """Make a call; return its result."""
    return await ctx.state.invoke(call, address)


async def close(hub, ctx):
    """Close its connections."""
    await ctx.state.close()
