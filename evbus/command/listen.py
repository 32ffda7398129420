"""``evbus listen``: run the listeners of modules and of plugins."""

import asyncio

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session


async def main(hub, options):
    """Hand events to the listeners until told to stop; a bus delivers what they send."""
    hub.evbus.NEEDED = ("listener",)
    profiles = await hub.command.init.contexts(options)
    broken = [plugin.error() for plugin in hub.evbus.init.plugins()["listener"] if plugin.state == "broken"]
    if broken:
        raise broken[0]

    async def produce():
        if not options.get("quiet"):
            _output.tell(_listening(hub))
        await asyncio.get_running_loop().create_future()

    found = hub.evbus.init.plugins()["listener"]
    if not options.get("listeners") and not any(plugin.state == "loaded" for plugin in found):
        unused = "".join(f"; {plugin.file}: {plugin.reason}" for plugin in found[:1])
        raise errors.ConfigError(
            "there are no listeners; name the module that holds them: --listeners MODULE, a folder that has "
            "a folder listener/ with them: --plugin-dirs DIR, or an installed package: --listen-to "
            f"PACKAGE{unused}"
        )
    return _session.stop_code(await hub.command.init.deliver(options, profiles, produce))


def _listening(hub):
    found = [f"{one['name']} ({', '.join(one['events'])})" for one in hub.event.init.subscriptions()]
    said = f"evbus: listening: {', '.join(found)}; Ctrl-C stops"
    if not hub.event.init.listens_outside():
        said = f"{said}\nevbus: nothing comes in from outside: their profiles are all in this process"
    return said
