"""``evbus serve``: start the components of folders and modules, and let others call them."""

import asyncio
import logging

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.kit import failure as _failure
from evbus.engine.kit import redact as _redact

log = logging.getLogger("evbus.service")

#: The port of the HTTP server, where neither an option nor the settings name another.
PORT = 8000


async def main(hub, options):
    """Run the components until told to stop; a bus delivers what they send."""
    quiet = bool(options.get("quiet"))
    hub.evbus.NEEDED = ("component", "health")
    profiles = await hub.command.init.contexts(options, {})
    _add(hub, options)

    async def produce():
        try:
            await hub.service.init.start(**_where(hub, options))
        except asyncio.CancelledError:
            _output.tell("evbus: stopped before the components were started")
            raise
        except errors.EvbusError:
            raise
        except Exception as exc:
            log.debug("the components could not be started", exc_info=True)
            said, where = _redact.problem_text(exc), _failure.place(exc)
            raise errors.ServiceError(
                f"the components could not be started: {said}{f' ({where})' if where else ''}"
            ) from exc
        if not quiet:
            for line in _serving(hub.service.init.report()):
                _output.tell(f"evbus: {line}")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if not quiet and not profiles:
                _output.tell("evbus: ending the calls under way; a second signal stops at once")

    # Without profiles there is nothing to tell of the bus.
    end = await hub.command.init.deliver({**options, "quiet": quiet or not profiles}, profiles, produce)
    code = _session.stop_code(end)
    cut = hub.service.init.report()["cancelled"]
    return code or (_session.EXIT.UNDELIVERED if cut else _session.EXIT.OK)


def _add(hub, options):
    """Add the components of what the options name.

    :raises ConfigError: there is none.
    """
    from evbus.engine.service import health as _health
    from evbus.engine.service import implementations as _implementations

    modules = hub.command.init.places(options, "components")
    found = [cls for one in modules for cls in (*_implementations.classes_in(one), *_health.checks_in(one))]
    if modules and not found:
        raise errors.ConfigError(
            f"{', '.join(one.__name__ for one in modules)}: there is no class with @implementation() here; "
            "name the module that has the implementations"
        )
    hub.service.init.add(*found)
    plugins = hub.evbus.init.plugins()["component"]
    if not found and not any(plugin.state in ("loaded", "broken") for plugin in plugins):
        unused = "".join(f"; {plugin.file}: {plugin.reason}" for plugin in plugins[:1])
        raise errors.ConfigError(
            "there are no components; name a folder that has a folder component/, a file or a module that "
            f"has classes with @implementation(), such as 'evbus serve shop.py'{unused}"
        )


def _where(hub, options):
    """Return what the services are started with: with a server, where nobody could call them otherwise."""
    from evbus.engine.service import settings as _settings

    port, host = options.get("port"), options.get("host")
    if port is not None and not 0 <= port < 65536:
        raise errors.ConfigError(f"--port {port}: a port is a number from 0 to 65535")
    read = _settings.read(options.get("services"))
    if port is None and read.server is None and (host is not None or not hub.channel.init.serves(read)):
        port = PORT
    return {"port": port, "host": host}


def _serving(report):
    """Yield a line for each component, and one that says where the server listens."""
    for one in report["components"]:
        places = {}
        for channel, uri in one["addresses"]:
            places.setdefault(uri, []).append(channel)
        said = [f"{', '.join(channels)} at {_redact.redact(uri)}" for uri, channels in places.items()]
        services = ", ".join(one["services"]) or "no services"
        yield f"component {one['name']}: {services}; {'; '.join(said) or 'called by nobody else'}"
    url = report["url"]
    yield f"serving{f' at {url}' if url else ''}; Ctrl-C stops"
