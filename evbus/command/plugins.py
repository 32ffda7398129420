"""``evbus plugins``: list every plugin by subsystem."""

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core import endpoint as _endpoint
from evbus.engine.core.plugins import in_use as _in_use


async def main(hub, options):
    """Print a row for each plugin file: its name on the hub, its state, its file, and what is wrong."""
    found = {room: list(plugins) for room, plugins in hub.evbus.init.plugins().items()}
    for name, file, reason in _in_use.unseen():
        found.setdefault("packages", []).append(
            _endpoint.Plugin(name, subsystem="packages", file=file, state="broken", reason=reason)
        )
    only = options.get("subsystem")
    if only and only not in found:
        raise errors.ConfigError(f"there is no subsystem {only!r}{errors.nearest(only, found)}")
    accepting = {"ingress": hub.evbus.init.accepts(), "egress": hub.evbus.init.sources()}
    providers = {
        (subsystem, accept.name): ", ".join(accept.providers)
        for subsystem, accepts in accepting.items()
        for accept in accepts
    }
    rows = []
    for subsystem in [only] if only else sorted(found):
        for plugin in found[subsystem]:
            loaded = plugin.state == "loaded"
            accepts = providers.get((subsystem, plugin.name), "") if loaded else ""
            place = f"{plugin.file}:{plugin.line}" if plugin.line else plugin.file
            rows.append([plugin.ref, plugin.state, accepts, plugin.reason, place])
    _output.say(_output.render(["plugin", "state", "accepts", "reason", "file"], rows) + "\n")
    broken = any(plugin.state == "broken" for plugins in found.values() for plugin in plugins)
    return _session.EXIT.MISTAKE if broken else _session.EXIT.OK
