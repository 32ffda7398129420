"""``evbus asyncapi``: describe the events of an application for others, as an AsyncAPI 3.0 document."""

from evbus import errors, types
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core import pipeline as _pipeline
from evbus.engine.core.plugins import load as _load

FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


async def main(hub, options):
    """Write the document of all events, listeners and profiles."""
    # Here, as it knows all transports, and every command loads this file.
    from evbus.engine.describe import asyncapi as _asyncapi

    path = options.get("output")
    kind = _output.chosen(options.get("format"), path, FORMATS, "json")
    found = await hub.command.asyncapi.catalogue(options)
    found = found._replace(ways=list(_ways(hub, options, found)))
    if not (found.events or found.ways):
        unreached = ""
        if found.services:
            unreached = (
                "; no broker is known over which services are called: name their settings with --services"
            )
        raise errors.ConfigError(
            "there are no events: name the modules that hold them with --events, those of listeners with "
            f"--listeners, or folders of listeners with --plugin-dirs{unreached}"
        )
    document = _asyncapi.document(
        found,
        title=options.get("title") or "Events",
        version=str(options.get("api_version") or "1.0.0"),
        # Whichever plugin the application chose, and in whichever way, what it writes says its type.
        content_type=hub.evbus.BROKER.reply(None, {}).headers[types.CONTENT_TYPE],
        pipeline=_pipeline.arrange(hub.evbus.pipeline.known(), hub.evbus.init.settings().pipeline),
    )
    _output.write(path, _output.as_yaml(document) if kind == "yaml" else _output.as_json(document))
    return _session.EXIT.OK


async def catalogue(hub, options):
    """Return events, listeners, profiles and services that the options name, and tell what leads nowhere.

    :raises ConfigError: a module, a plugin or a profile is wrong; nothing is left out silently.
    """
    from evbus.engine.describe import catalogue as _catalogue
    from evbus.engine.describe import services as _services
    from evbus.engine.handling.dispatch import declare as _declare
    from evbus.engine.handling.events import listener as _listener
    from evbus.engine.handling.events import modules as _modules

    # First, as it may add folders of plugins.
    interfaces = hub.command.init.interfaces(options)
    file = hub.command.init.source(options) or "profiles"
    registry = hub.event.REGISTRY
    for module in hub.command.init.modules(options, "events"):
        for event in _catalogue.events_in(module):
            registry.of(event)
    modules = hub.command.init.modules(options, "listeners")
    found = [(module.__name__, _modules.listeners_of(module)) for module in modules]
    found += [(ref, list(_listener.declared(module))) for ref, module in _loaded(hub, "listener")]
    listeners = [one for place, declared in found for one in _catalogue.known(declared, place, registry)]
    calling = [
        ("listener", spec.name or _listener.short_name(each), place, each)
        for place, declared in found
        for each, spec in declared
    ]
    calling += [
        ("handler", one.name, place, one.handler)
        for place, module in _loaded(hub, "handler")
        for one in _declare.declarations(module)
    ]
    # Where there are no events, nothing goes through the profile that would be shown for lack of others.
    within = {"internal": {"*": {}}} if listeners or list(registry) else {}
    contexts = await hub.command.init.contexts(options, within)
    bus = _catalogue.Configuration(
        contexts,
        hub.evbus.init.check(contexts, file),
        hub.evbus.init.sources(),
        hub.evbus.init.finder(contexts, file),
        file,
    )
    found = _catalogue.catalogue(bus, listeners, list(registry), options.get("profile") or "default")
    for problem in found.problems:
        _output.tell(f"evbus: {problem}")
    plans = hub.service.init.planned()
    callers = _services.callers_in(plans, calling)
    others = [*interfaces, *(spec for caller in callers for spec in caller.calls)]
    return found._replace(services=_services.services(plans, others), callers=callers)


def _ways(hub, options, found):
    """Yield where services are called over the brokers that the settings of services have.

    :raises ProfileError: a channel goes through a profile that there is none of.
    """
    from evbus.engine.describe import services as _services
    from evbus.engine.service import settings as _settings

    if options.get("services") is None:
        return
    read = _settings.read(options["services"])
    hub.channel.init.check(read)
    known = {(one.provider, one.name): one for one in found.profiles}
    for one in found.services:
        for channel, profile, address, content_type in hub.channel.init.brokered(read, one.component):
            if (channel, profile) not in known:
                names = [name for provider, name in known if provider == channel]
                hint = errors.nearest(profile, names)
                raise errors.ProfileError(
                    f"there is no profile {profile!r} of the provider {channel}{hint}",
                    source="services",
                    path=f"channels.{channel}.profile",
                )
            yield _services.ServiceWay(one, known[channel, profile], address, content_type)


def _loaded(hub, room):
    """Return the files of a room with their names on the hub.

    :raises PluginError: one is broken.
    """
    found = []
    for plugin in hub.evbus.init.plugins()[room]:
        if plugin.state == "broken":
            raise plugin.error()
        if plugin.state == "loaded":
            found.append((plugin.ref, _load.module_of(plugin.file)))
    return found
