"""``evbus check``: check options, plugins and profiles, and try every destination."""

import asyncio

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core import profiles as _profiles
from evbus.engine.core.intake import sources as _sources


async def main(hub, options):
    """Print a row for each profile, and a line for each plugin that is broken."""
    profiles = await hub.command.init.contexts(options)
    file = hub.command.init.source(options)
    if not any(True for _ in _profiles.providers(profiles, source=file)):
        raise errors.ProfileError("the file holds no profile: {provider: {name: data}} is right", source=file)
    hub.evbus.init.error_callback()
    # A plugin may ask for another profile while it is opened, as for the client of one.
    hub.evbus.CONTEXTS = tried = _session.at_once(profiles)
    lanes = hub.evbus.init.connect(tried, file)
    sources = _only_sources(hub, profiles, lanes, file)
    problems = await asyncio.gather(*(_session.try_open(lane) for lane in lanes))
    await hub.connection.init.stop()
    rows = [
        [str(lane.key), "failed" if problem else "ok", problem]
        for lane, problem in zip(lanes, problems)  # noqa: B905 - one each
    ]
    rows += [[name, "source", "not tried: it is only consumed from"] for name in sources]
    _output.say(_output.render(["destination", "state", "reason"], rows) + "\n")
    problem = hub.evbus.init.dead_store().try_out()
    if problem:
        _output.say(f"warning: dead events will be lost: {problem}\n")
    found = hub.evbus.init.plugins().values()
    broken = [plugin for plugins in found for plugin in plugins if plugin.state == "broken"]
    for plugin in broken:
        _output.say(f"plugin not loaded: {plugin.error()}\n")
    if broken:
        return _session.EXIT.MISTAKE
    return _session.EXIT.UNDELIVERED if any(problems) else _session.EXIT.OK


def _only_sources(hub, profiles, lanes, file):
    """Return the names of the profiles that are no destination, checked."""
    there = {(lane.key.provider, lane.key.profile) for lane in lanes}
    found = []
    for provider, name, _, _ in _profiles.providers(profiles, source=file):
        if (provider, name) not in there:
            source = _sources.find(profiles, f"{provider}.{name}", hub.evbus.init.sources(), file)
            found.append(f"{source.plugin.name}.{provider}.{name}")
    return found
