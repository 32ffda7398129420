"""``evbus openapi``: describe the methods that have a path for others, as an OpenAPI 3.1 document."""

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session

FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


async def main(hub, options):
    """Write the document of all interfaces that are named, and of those that are implemented."""
    # Here, as every command loads this file.
    from evbus.engine.describe import openapi as _openapi

    path = options.get("output")
    kind = _output.chosen(options.get("format"), path, FORMATS, "json")
    found = hub.command.init.interfaces(options)
    methods = [_openapi.RestMethod(spec, route) for spec in found for route in spec.routes.values()]
    if not methods:
        raise errors.ConfigError(
            "no method has a path (@get, @post, ...): name the modules of interfaces with --interfaces, or "
            "folders of implementations with --plugin-dirs"
        )
    document = _openapi.document(
        methods,
        title=options.get("title") or "Services",
        version=str(options.get("api_version") or "1.0.0"),
    )
    _output.write(path, _output.as_yaml(document) if kind == "yaml" else _output.as_json(document))
    return _session.EXIT.OK
