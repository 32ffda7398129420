"""``evbus demo``: put made-up events at a rate."""

from evbus import errors
from evbus.engine.cli import session as _session


async def main(hub, options):
    """Put events ``{number, timestamp, data}`` until there are enough."""
    count, rate = options.get("count") or 0, options.get("rate") or 0
    if count < 0 or rate < 0:
        raise errors.ConfigError("--count and --rate must not be negative")
    hub.event.LOCAL = True
    profiles = await hub.command.init.contexts(options, {"console": {"*": {}}})
    routing_key, profile = options.get("routing_key") or "random", options.get("profile")

    async def produce():
        async for body in _session.made_up(count, rate):
            await hub.evbus.broker.put(routing_key=routing_key, body=body, profile=profile)

    return _session.exit_code(await hub.command.init.deliver(options, profiles, produce))
