"""``evbus graph``: show who sends what to whom."""

import sys

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session

FORMATS = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".txt": "text"}


async def main(hub, options):
    """Write events, the profiles that they go through, the listeners that get them, and services."""
    # Here, as it knows all transports, and every command loads this file.
    from evbus.engine.describe import graph as _graph

    path = options.get("output")
    kind = _output.chosen(options.get("format"), path, FORMATS, "text")
    found = await hub.command.asyncapi.catalogue(options)
    if not (found.events or found.services) and not (options.get("profiles") or options.get("acct_file")):
        raise errors.ConfigError(
            "there is nothing to show: name the modules that hold events with --events, those of listeners "
            "with --listeners, those of services with --interfaces, folders of plugins with --plugin-dirs, a "
            "file of profiles with --profiles"
        )
    graph = _graph.graph(found)
    if kind == "text":
        encoding = getattr(sys.stdout, "encoding", None) if path in (None, "-") else "utf-8"
        text = _graph.text(graph, encoding or "ascii")
    else:
        text = _graph.dot(graph)
        text = _graph.svg(text) if kind == "svg" else text
    _output.write(path, text)
    return _session.EXIT.OK
