"""``evbus check``: check options, plugins and profiles, and try every destination."""

import asyncio
import sys

from evbus.command import _session, _table


async def main(hub, options):
    """Print a row for each destination, and a line for each plugin that is broken."""
    profiles = await hub.command.init.contexts(options)
    hub.evbus.init.error_callback()
    connections = hub.evbus.init.connect(profiles, str(options.get("profiles") or options.get("acct_file")))
    problems = await asyncio.gather(*(_session.try_open(connection) for connection in connections))
    rows = [
        [str(connection.lane.key), "failed" if problem else "ok", problem]
        for connection, problem in zip(connections, problems)  # noqa: B905 - one each
    ]
    sys.stdout.write(_table.render(["destination", "state", "reason"], rows) + "\n")
    found = hub.evbus.init.plugins().values()
    broken = [plugin for plugins in found for plugin in plugins if plugin.state == "broken"]
    for plugin in broken:
        sys.stdout.write(f"plugin not loaded: {plugin.error()}\n")
    if broken:
        return _session.EXIT.MISTAKE
    return _session.EXIT.UNDELIVERED if any(problems) else _session.EXIT.OK
