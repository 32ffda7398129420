"""``evbus tail``: read events as ``evbus run`` does, and print what reaches the internal queues."""

from evbus.engine.cli import session as _session


async def main(hub, options):
    """Print each body behind the routing key of its queue."""
    hub.event.LOCAL = True
    profiles = await hub.command.init.contexts(options, {"internal": {"*": {}}})
    return await hub.command.init.read(options, profiles, _session.print_body)
