"""``evbus services``: list who is where, and how healthy."""

import asyncio
import contextlib
import datetime as dt
import sys

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core.lifecycle import signals as _signals

#: Seconds that a server has to say how it is, unless --timeout says so.
LIMIT = 3.0
#: Seconds between two looks of --watch.
PAUSE = 2.0
#: What a terminal shows from its first line on.
HOME = "\x1b[H\x1b[J"


async def main(hub, options):
    """Print a row for each place that the registry knows; with ``--watch`` again when something changes."""
    from evbus.engine.service import settings as _settings

    try:
        from evbus.engine.cli import where as _where
    except ModuleNotFoundError as exc:
        from evbus.engine.service import callers as _callers

        raise _callers.missing(exc, "the health of services") from exc
    read = _settings.read(options.get("services"))
    if read.registry_parts()[0] == "local":
        raise errors.ConfigError(
            "the registry local knows the components of its own process, and nothing of others; name the "
            "file of settings that has another one: --services services.yml"
        )
    seconds = _session.seconds(options.get("timeout"), LIMIT)
    await hub.service.init.start(settings=options.get("services"), client=True)
    try:
        known = hub.channel.init.names()
        ways = {
            name: _settings.channel_settings(name, read.channels.get(name), _settings.HttpSettings)[1]
            for name, is_http in known.items()
            if is_http
        }
        async with contextlib.aclosing(_where.Servers(ways, seconds)) as asking:

            async def look():
                await hub.service.init.look()
                return await _where.places(hub.service.init.report()["elsewhere"], asking, known)

            if options.get("watch"):
                await _watch(options, look)
                return _session.EXIT.OK
            found = await look()
    finally:
        await hub.service.init.stop(0)
    _output.say(_shown(options, found))
    return _session.EXIT.UNDELIVERED if any(map(_where.is_down, found)) else _session.EXIT.OK


async def _watch(options, look):
    """Show what is there, and what changes, until told to stop."""
    from evbus.engine.cli import where as _where

    terminal = sys.stdout is not None and sys.stdout.isatty() and not options.get("json")
    control, before, problem = _signals.Control(), [], ""
    with _signals.handled(control, 0.0, lambda _: "", quiet=True):
        async with control:
            while True:
                try:
                    found, lost = await look(), ""
                except errors.ServiceError as exc:
                    found, lost = before, str(exc)
                if terminal:
                    said = f"evbus: {lost}\n" if lost else ""
                    _output.say(f"{HOME}{_shown(options, found)}{said}every {PAUSE:g} s; Ctrl-C ends\n")
                else:
                    lines = [lost] if lost not in ("", problem) else []
                    lines += _where.changes(before, found)
                    now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
                    shown = "".join(f"{now} {line}\n" for line in lines)
                    _output.say(_shown(options, found) if options.get("json") and lines else shown)
                sys.stdout.flush()
                before, problem = found, lost
                await asyncio.sleep(PAUSE)


def _shown(options, found):
    """Return the places as a table, or as one line of JSON."""
    if options.get("json"):
        from evbus.engine.codec import json as _json

        return f"{_json.apply([one._asdict() for one in found]).decode()}\n"
    rows = [[one.component, ", ".join(one.channels), one.address, one.health, one.reason] for one in found]
    if not rows:
        return "the registry has no components\n"
    return _output.render(["component", "channels", "address", "health", "reason"], rows) + "\n"
