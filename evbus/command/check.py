"""``evbus check``: check options, plugins and profiles, and try every destination."""

import asyncio

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core import profiles as _profiles
from evbus.engine.core.intake import sources as _sources
from evbus.engine.kit import redact as _redact


async def main(hub, options):
    """Print a row for each profile and each part of services, and a line for each plugin that is broken."""
    services = options.get("services")
    # Who asks about services need not have a bus.
    profiles = await hub.command.init.contexts(options, None if services is None else {})
    failed = False
    if profiles or services is None:
        failed = await _profiles_are_down(hub, options, profiles)
    if services is not None:
        rows = await _services(hub, options)
        _output.say(_output.render(["services", "state", "reason"], rows) + "\n")
        failed = failed or any(state == "failed" for _, state, _ in rows)
    found = hub.evbus.init.plugins().values()
    broken = [plugin for plugins in found for plugin in plugins if plugin.state == "broken"]
    for plugin in broken:
        _output.say(f"plugin not loaded: {plugin.error()}\n")
    if broken:
        return _session.EXIT.MISTAKE
    return _session.EXIT.UNDELIVERED if failed else _session.EXIT.OK


async def _profiles_are_down(hub, options, profiles):
    """Print a row for each profile; return whether one cannot be opened."""
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
    return any(problems)


async def _services(hub, options):
    """Return a row for the registry, for each channel that has settings, and for each component.

    :raises ConfigError: something that is written has to be mended.
    """
    from evbus.engine.service import settings as _settings

    read = _settings.read(options["services"])
    plans = hub.service.init.planned()
    rows, name = [], read.registry_parts()[0]
    try:
        await hub.service.init.start(settings=options["services"], client=True)
        await hub.service.init.look()
        rows.append([f"registry {name}", "ok", ""])
        known = hub.channel.init.names()
        for component, channels in hub.service.init.report()["elsewhere"].items():
            for channel in channels:
                if channel not in known:
                    said = f"there is no channel {channel!r} here{errors.absent(channel, known)}"
                    rows.append([f"component {component}", "failed", said])
    except errors.ConfigError:
        raise
    except errors.ServiceError as exc:
        rows.append([f"registry {name}", "failed", str(exc)])
    for channel in read.channels:
        problem = await _channel(hub, channel, read)
        rows.append([f"channel {channel}", "failed" if problem else "ok", problem])
    await hub.service.init.stop(0)
    services = [(plan, ", ".join(spec.name for spec, _ in plan.services)) for plan in plans]
    return [*rows, *([f"component {plan.name}", "ok", names or "no services"] for plan, names in services)]


async def _channel(hub, name, read):
    """Open and close a channel; return why it cannot be opened, or ``""``."""
    try:
        _, close = await hub.channel.init.open(name, read)
    except errors.ConfigError:
        raise
    except Exception as exc:  # whatever a plugin raises
        return _redact.problem_text(exc)
    await close()
    return ""


def _only_sources(hub, profiles, lanes, file):
    """Return the names of the profiles that are no destination, checked."""
    there = {(lane.key.provider, lane.key.profile) for lane in lanes}
    found = []
    for provider, name, _, _ in _profiles.providers(profiles, source=file):
        if (provider, name) not in there:
            source = _sources.find(profiles, f"{provider}.{name}", hub.evbus.init.sources(), file)
            found.append(f"{source.plugin.name}.{provider}.{name}")
    return found
