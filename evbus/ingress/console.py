"""Events on standard output or standard error.

.. code-block:: yaml

    console:
      orders:
        stream: stderr
        format: event
"""

from evbus.engine.wire.file.console import ConsoleDestination, ConsoleProfile
from evbus.types import Channel, Envelope, Host, Transport

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    hub.ingress.console.ACCT = ["console"]
    hub.ingress.console.PROFILE = ConsoleProfile


async def open_(hub, ctx):
    """Take hold of the stream; what is returned becomes ``ctx.state``.

    :raises Unavailable: the process has no such stream.
    """
    return ConsoleDestination(ctx.profile)


async def publish(hub, ctx, routing_key: str, body: bytes, headers=None):
    """Print one event.

    :raises Rejected: the event cannot be a line.
    :raises Unavailable: nobody reads the stream any more.
    """
    event = Envelope(ctx.name, routing_key, body, headers or {})
    outcome = (await ctx.state.publish([event]))[0]
    if outcome is not None:
        raise outcome


async def publish_batch(hub, ctx, events):
    """Print events with one write; returns None or the exception for each, in order."""
    return await ctx.state.publish(events)


async def close_(hub, ctx):
    """Print what is left; the stream stays open."""
    if ctx.state is not None:
        await ctx.state.close()


def describe(hub, profile):
    """Return what there is to say of a profile."""
    here = Host("localhost", "console", description="the console of the sender")
    return Transport([here], Channel(profile.stream, "console"), headers=profile.format == "event")
