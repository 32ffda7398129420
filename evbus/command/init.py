"""The command ``evbus``: run a bus for a subcommand, from start to end."""

import asyncio
import contextlib
import pathlib
import sys
import time

from evbus import errors
from evbus.engine.cli import input as _input
from evbus.engine.cli import output as _output
from evbus.engine.cli import session as _session
from evbus.engine.core import settings as _settings
from evbus.engine.core.lifecycle import running as _running
from evbus.engine.core.plugins import load as _load
from evbus.engine.handling.events import modules as _modules


async def contexts(hub, options, default=None):
    """Return the profiles that the options name.

    :param default: the profiles when the options name none.
    :raises ProfileError: there is no file and no default, or something in it is wrong.
    """
    path = options.get("profiles") or options.get("acct_file")
    if path:
        return await hub.evbus.acct.load(path, options.get("acct_key"))
    if default is None:
        raise _session.no_profiles(options.get("profile") or "")
    return default


def source(hub, options):
    """Return the place of the profiles that the options name, for errors; ``""`` when they name none."""
    path = options.get("profiles") or options.get("acct_file") or ""
    return path if isinstance(path, str) else "evbus.profiles"


def modules(hub, options, name):
    """Return the modules that an option names, which are imported; of ``listeners`` with all that is below.

    :raises ConfigError: there is no such module, or importing it fails.
    """
    folder, whole = str(pathlib.Path.cwd()), name == "listeners"
    given = _settings.listed(options.get(name) or ())
    return [_modules.imported(module, folder, whole=whole) for module in given]


def places(hub, options, name):
    """Return the modules that an option names by name, file or folder; folders of plugins are loaded.

    :raises ConfigError: there is no such thing, or importing it fails.
    """
    from evbus.engine.cli import places as _places

    found = _places.places(_settings.listed(options.get(name) or ()), pathlib.Path.cwd())
    if found.plugins:
        before = _settings.plain(hub.OPT)
        dirs = [*_settings.listed(before["evbus"].get("plugin_dirs") or ()), *found.plugins]
        hub.OPT = hub.pop.data.imap({**before, "evbus": {**before["evbus"], "plugin_dirs": dirs}})
    return found.modules


def interfaces(hub, options):
    """Return the interfaces in what ``--interfaces`` names, and in the folders ``component/``.

    :raises ConfigError: a module or a plugin file is wrong.
    """
    from evbus.engine.service import declare as _declare

    modules = hub.command.init.places(options, "interfaces")
    for plugin in hub.evbus.init.plugins()["component"]:
        if plugin.state == "broken":
            raise plugin.error()
        if plugin.state == "loaded":
            modules.append(_load.module_of(plugin.file))
    return list(dict.fromkeys(spec for module in modules for spec in _declare.interfaces_in(module)))


async def deliver(hub, options, profiles, produce, show=None):
    """Run the bus while ``produce()`` puts events, drain it, and print what became of them.

    :param produce: a coroutine function; cancelled by the first signal.
    :param show: called with the bodies of the internal queues instead of throwing them away.
    :return: the counters, and whether a second signal came.
    """
    hub.event.init.listen(*hub.command.init.modules(options, "listeners"))
    quiet = bool(options.get("quiet"))
    control, problem = _running.control_of(hub), None
    begun, entered = time.monotonic(), False
    try:
        # The end of the input is no signal: what is there is delivered as long as that goes on.
        async with (
            contextlib.AsyncExitStack() as after,
            _running.running(hub, profiles, control, signals=True, quiet=quiet, steady=True),
        ):
            entered = True
            status = _output.StatusLine(enabled=not quiet and not _prints(hub, show))
            ticker = asyncio.ensure_future(_tick(hub, control, status, show))
            after.callback(status.clear)
            after.push_async_callback(_session.ended, ticker)
            after.enter_context(status.below_logs())
            try:
                await produce()
            except errors.EvbusError as exc:
                problem = exc
    except errors.EvbusError:
        if control.left and not entered:
            raise KeyboardInterrupt from None
        raise
    snapshot = hub.evbus.stats.snapshot()
    if not quiet:
        _output.tell(_output.closing(snapshot, time.monotonic() - begun))
    if problem is not None:
        raise problem
    return _session.Ended(snapshot, control.at_once, control.report)


def _prints(hub, show):
    """Return whether events are printed on the terminal, where a status line would be among them."""
    lanes = hub.evbus.ENGINE.lanes.values()
    printing = show is not None or any(lane.key.plugin == "console" for lane in lanes)
    return printing and sys.stdout is not None and sys.stdout.isatty()


async def _tick(hub, control, status, show):
    """Do what is to be done again and again while the bus runs, and once more at its end."""

    def empty():
        try:
            _session.empty(hub.ingress.INTERNAL, show)
        except BrokenPipeError:
            _output.hang_up()
            control.stop()

    def look(state):
        """End when nobody reads what the console prints, as soon as the others are through."""
        lanes = hub.evbus.ENGINE.lanes
        waiting = [name for name, lane in lanes.items() if not lane.idle]
        stuck = [
            name
            for name in waiting
            if lanes[name].key.plugin == "console" and state["lanes"][name]["state"] == "retrying"
        ]
        if stuck and _output.reader_left():
            control.stop()
            if stuck == waiting:
                hub.evbus.ENGINE.hurry()

    try:
        await _session.tick(hub.evbus.stats.snapshot, status, empty, look)
    finally:
        empty()


async def read(hub, options, profiles, show=None):
    """Deliver the events of a file, of standard input, of a socket or of a profile; return the exit code."""
    sources = options.get("from")
    if sources:
        sources = [sources] if isinstance(sources, str) else sources
        return await hub.command.init.consume(options, profiles, sources, show)
    form = _input.form_of(options)
    if options.get("count"):
        raise errors.ConfigError(
            "--count says how many events --from is to consume; name a profile with --from"
        )
    intake = hub.command.init.intake(form)
    read_all = _session.reader_of(options.get("input"), options.get("socket"), intake)
    end = await hub.command.init.deliver(options, profiles, read_all, show)
    return _session.exit_code(end, intake.refused)


async def consume(hub, options, profiles, sources, show=None):
    """Deliver what comes in through the profiles ``sources``; return the exit code."""
    if options.get("input") or options.get("socket"):
        raise errors.ConfigError("give either --from, an input file or --socket, not several of them")
    for option in ("format", "body_key", "routing_key"):
        if options.get(option):
            name = option.replace("_", "-")
            raise errors.ConfigError(f"--{name} says what lines mean, and --from reads none: leave it out")
    profile, count = options.get("profile") or "default", options.get("count") or 0
    if count < 0:
        raise errors.ConfigError(f"--count {count}: this is a number of events; 0, or none, is for ever")
    file = hub.command.init.source(options) or "contexts"
    found = [hub.evbus.bridge.check(profiles, name, profile, file) for name in sources]
    names = [one.full_name for one in found]
    twice = next((one.name for one in found if names.count(one.full_name) > 1), None)
    if twice is not None:
        raise errors.ConfigError(f"--from names the profile {twice!r} twice; once is right")
    left = []

    async def produce():
        try:
            await _session.together(
                [hub.evbus.bridge.run(profiles, name, profile, count, left.append) for name in sources]
            )
        finally:
            if left:
                # They had their time, and stay with their source: delivered now, they would come twice.
                hub.evbus.ENGINE.hurry()

    end = await hub.command.init.deliver(options, profiles, produce, show)
    return _session.exit_code(end) or (_session.EXIT.UNDELIVERED if left else _session.EXIT.OK)


def intake(hub, form=None):
    """Return a ``LineProducer``, which puts the events of lines; ``form`` says what a line means."""
    settings = hub.evbus.init.settings()
    return _session.LineProducer(
        hub.evbus.broker.put,
        max_body=settings.max_body,
        raw_json=settings.serialize_plugin == "json",
        form=form,
    )
