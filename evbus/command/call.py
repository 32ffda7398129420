"""``evbus call``: call a method of a service, and print its result."""

import contextlib
import sys

from evbus import errors
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core import settings as _settings
from evbus.engine.kit import redact as _redact

#: The channel to an address of which nothing else is said.
CHANNEL = "dispatch-json"


async def main(hub, options):
    """Print the result as JSON, or what a stream yields, an item a line, as it comes."""
    from evbus.engine.cli import calls as _calls

    # --interfaces takes all that stands behind it, and no module has an equals sign in its name.
    named = _settings.listed(options.get("interfaces") or ())
    written, *given = [*(options.get("method") or ("",)), *(one for one in named if "=" in one)]
    if not written:
        raise errors.ConfigError(
            "name the method before the options: evbus call Greeter.hello name=world --interfaces greeter"
        )
    modules = [one for one in named if "=" not in one]
    try:
        known = hub.command.init.interfaces({**options, "interfaces": modules})
    except errors.ConfigError as exc:
        if len(modules) < 2 or "there is no module" not in str(exc):
            raise
        raise errors.ConfigError(f"{exc}; arguments without a name stand before the options") from None
    arguments = _calls.read(given)
    wire = _calls.wire_name(written)
    if known:
        target = _calls.target(written, known)
    elif wire is None:
        raise errors.ConfigError(
            f"{written!r}: the module that has this interface is named by --interfaces; without it, methods "
            "are called by their names on the wire, component:service:method"
        )
    else:
        target = _calls.made_up(*wire, arguments)
    found = _calls.arguments(target.method, arguments)
    settings = _reachable(options, target.component)
    try:
        await _call(hub, options, settings, target, found)
    except errors.PayloadError as exc:
        raise errors.ConfigError(str(exc)) from None
    except errors.EvbusError as exc:
        if found.problems:
            raise found.problems[0] from None
        if known or "it yields a stream" not in str(exc):
            raise
        raise errors.ServiceError(f"{exc}; name its interface with --interfaces") from None
    except BrokenPipeError:
        raise  # nobody reads what is printed
    except Exception as exc:  # what the interface declares may be anything
        _output.tell(f"evbus: {_redact.problem_text(exc)}")
        return _session.EXIT.UNDELIVERED
    return _session.EXIT.OK


async def _call(hub, options, settings, target, found):
    """Make a call, and print what comes."""
    channel, seconds = options.get("channel") or "", _session.seconds(options.get("timeout"), None)
    profiles = await hub.command.init.contexts(options, {}) or None
    await hub.service.init.start(settings=settings, client=True, profiles=profiles)
    try:
        known = [one for one in hub.service.init.report()["channels"] if one != "local"]
        if channel and channel not in known:
            raise errors.ConfigError(f"there is no channel {channel!r}{errors.absent(channel, known)}")
        with contextlib.nullcontext() if seconds is None else hub.service.init.within(seconds):
            made = hub.service.init.call(
                target.service.cls, target.method.name, found.args, found.kwargs, channel
            )
            if target.method.item is None:
                _print(await made)
            else:
                async with contextlib.aclosing(made) as items:
                    async for item in items:
                        _print(item)
    finally:
        await hub.service.init.stop(0)


def _print(value):
    """Print a value in one line, at once."""
    from evbus.engine.codec import json as _json

    _output.write(None, f"{_json.apply(value).decode()}\n")
    sys.stdout.flush()


def _reachable(options, component):
    """Return the settings with which a component is called, with the address of the options.

    :raises ConfigError: nothing says where it is.
    """
    from evbus.engine.service import settings as _services

    source, address = options.get("services"), options.get("address")
    read = _services.read(source)
    if address is not None:
        if not options.get("channel") and not address.startswith(("http://", "https://")):
            raise errors.ConfigError(
                f"--address {_redact.redact(address)}: write it as http://host:port, or name the channel "
                "that has such addresses with --channel"
            )
        channel = options.get("channel") or CHANNEL
        return {"registry": {"static": {component: {channel: address}}}, "channels": read.channels}
    if source is None:
        raise errors.ConfigError(
            f"nothing says where the component {component!r} is: give its address, such as --address "
            "http://127.0.0.1:8000, or the file of settings with its registry, --services services.yml"
        )
    return source
