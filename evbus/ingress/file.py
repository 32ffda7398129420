"""Events into a file, one JSON line each, rotated by size.

.. code-block:: yaml

    file:
      orders:
        path: ~/events/orders.jsonl
        fsync: batch
"""

from evbus.engine.wire.file.lines import FileDestination, FileProfile
from evbus.types import Channel, Envelope, Host, Transport

__func_alias__ = {"open_": "open", "close_": "close"}


def __init__(hub):
    hub.ingress.file.ACCT = ["file"]
    hub.ingress.file.PROFILE = FileProfile


async def open_(hub, ctx):
    """Open the profile's file; what is returned becomes ``ctx.state``.

    :raises Unavailable: the file cannot be written, or somebody else writes it.
    """
    destination = FileDestination(ctx.profile)
    await destination.open()
    return destination


async def publish(hub, ctx, routing_key: str, body: bytes, headers=None):
    """Append one event.

    :raises Rejected: the event cannot be a line.
    :raises Unavailable: the file cannot be written now.
    """
    event = Envelope(ctx.name, routing_key, body, headers or {})
    outcome = (await ctx.state.publish([event]))[0]
    if outcome is not None:
        raise outcome


async def publish_batch(hub, ctx, events):
    """Append events with one write; returns None or the exception for each, in order."""
    return await ctx.state.publish(events)


async def close_(hub, ctx):
    """Write and sync what is left and close the file."""
    if ctx.state is not None:
        await ctx.state.close()


def describe(hub, profile):
    """Return what there is to say of a profile."""
    here = Host("localhost", "file", description="a file of the sender")
    return Transport([here], Channel(profile.path, "file"), durable=True, headers=profile.format == "event")
