"""``evbus tail``: read events as ``evbus run`` does, and print what reaches the internal queues."""

from evbus import errors
from evbus.engine.cli import session as _session


async def main(hub, options):
    """Print each body behind the routing key of its queue."""
    hub.event.LOCAL = True
    consumes = bool(options.get("from"))
    profiles = await hub.command.init.contexts(options, None if consumes else {"internal": {"*": {}}})
    file, profile = hub.command.init.source(options), options.get("profile") or "default"
    find = hub.evbus.init.finder(profiles, file)
    queues = [one.name for one in hub.evbus.init.check(profiles, file) if one.plugin.name == "internal"]
    # Lines may name profiles of their own, and are only sent on where nothing is printed.
    if consumes and not any(find(profile, name) for name in queues):
        raise errors.ConfigError(
            f"{file}: tail prints what reaches the internal queues, and no profile of the provider internal "
            f"matches {profile!r}: write 'internal: {{{profile}: {{}}}}' into it"
            f"{'; or name one with --profile' + errors.nearest(profile, queues) if queues else ''}"
        )
    return await hub.command.init.read(options, profiles, _session.print_body)
