"""The command ``evbus``: options, configuration files, logging, and the end of the process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pop.hub

from evbus import conf
from evbus.command import _output
from evbus.errors import ConfigError, EvbusError, SettingsError, nearest
from evbus.evbus import _profiles

__all__ = ["run"]

UNDELIVERED = 1
MISTAKE = 2
STOPPED = 130
#: Seconds that threads and tasks of plugins have to end once the command has said what became of the events.
LINGER = 1.0

DESCRIPTION = "A plug-in event bus: every event goes to every destination that wants it."
EXIT_CODES = """exit codes:
  0    everything was delivered, or all is well
  1    something was not delivered or handled (run, put, demo, tail, replay), was left by the stop (listen),
       or cannot be reached (check)
  2    a mistake in the options, the profiles or the plugins; nothing was done
  3    everything was delivered but for what was refused: a line that is no event, or a body too large
  130  stopped at once by a second Ctrl-C or SIGTERM; what was not delivered is in the dead
       store, or said to be lost
"""


class _Unset(list[Any]):
    """What pop-config takes an option for that was not given; argparse appends to a copy of it."""


def run() -> int:
    """Run the command line; return the exit code."""
    _occupy()
    try:
        code = _main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read standard output went away. The interpreter flushes it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNDELIVERED
    except KeyboardInterrupt:
        code = STOPPED
    return code


def _occupy() -> None:
    """Let no file that is opened later take the place of a standard stream that is closed."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    while nowhere <= 2:
        nowhere = os.open(os.devnull, os.O_RDWR)
    os.close(nowhere)


def _end_in_time(code: int) -> None:
    """Let the process end, whatever is left of plugins: the interpreter waits for their threads and tasks."""

    def end() -> None:
        time.sleep(LINGER)
        os._exit(code)

    threading.Thread(target=end, name="evbus end", daemon=True).start()


def _see_this_folder() -> None:
    """Let plugins import the modules of the project in whose folder the command is called, behind others."""
    folder = str(pathlib.Path.cwd())
    if not {folder, ""} & set(sys.path) and not getattr(sys.flags, "safe_path", False):
        sys.path.append(folder)


def _main() -> int:
    _see_this_folder()
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
    hub.pop.sub.add(dyne_name="log", pypath="evbus.log")
    try:
        _configure(hub)
        if not hub.SUBPARSER:
            _output.say(hub.args.parser.help())
            return MISTAKE
        hub.pop.sub.add(subname="command", pypath="evbus.command")
        return asyncio.run(_run(hub, hub.SUBPARSER, dict(hub.OPT.evbus)))
    except EvbusError as exc:
        return _told(exc)


async def _run(hub: Any, name: str, options: dict[str, Any]) -> int:
    code = STOPPED
    try:
        code = await hub.command[name].main(options)
    except EvbusError as exc:
        code = _told(exc)
    finally:
        # What is printed is printed before the rest may be cut off.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.flush()
        _end_in_time(code)
    return code


def _told(problem: EvbusError) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"evbus: {problem}\n")
    return MISTAKE if isinstance(problem, ConfigError) else UNDELIVERED


def _configure(hub: Any) -> None:
    _check_file()
    if not hasattr(pathlib, "os"):
        # pop-config 12 reads its files with pathlib.os, which is gone since Python 3.13.
        pathlib.os = os  # type: ignore[attr-defined,unused-ignore]
    with _without_pip():
        hub.pop.sub.add(dyne_name="config")
        _set_parser(hub)
        hub.pop.config.load(["evbus"], cli="evbus", logs=False)
    for key in hub.OPT.evbus:
        if key not in conf.CONFIG:
            raise SettingsError(f"evbus.{key}: there is no such option{nearest(key, conf.CONFIG)}")
    _set_logging(hub)


@contextlib.contextmanager
def _without_pip() -> Iterator[None]:
    """Hide pip, whose import for --versions-report would cost half a second of every start."""
    name = "pip._internal.operations.freeze"
    hidden = "--versions-report" not in sys.argv and name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def _set_parser(hub: Any) -> None:
    """Make the parser before pop-config does, which gives it no description and an odd name for commands."""
    hub.args.DEFAULT = _Unset()
    hub.args.PARSER = argparse.ArgumentParser(
        prog="evbus",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    hub.args.SUBPARSER = hub.args.PARSER.add_subparsers(
        dest="_subparser_", metavar="COMMAND", title="commands", description="evbus COMMAND --help says more"
    )


def _set_logging(hub: Any) -> None:
    options = hub.OPT.pop_config
    # pop-config's default plugin writes a file into the current folder; it does so only when asked.
    given = any(argument.startswith(("--log-file", "--log-plugin")) for argument in sys.argv)
    chosen = given or not {"POP_LOG_FILE", "POP_LOG_PLUGIN"}.isdisjoint(os.environ)
    try:
        if chosen:
            # Logging itself opens it at the first record, and prints a stack trace when it cannot.
            pathlib.Path(options.log_file).open("a").close()
        hub.log["null" if options.log_plugin == "basic" and not chosen else options.log_plugin].setup(options)
    except OSError as exc:
        raise SettingsError(f"the log file {options.log_file} cannot be written: {exc.strerror}") from None
    logging.captureWarnings(capture=True)


def _check_file() -> None:
    """Check the configuration file, of which pop-config passes over mistakes or dies.

    :raises ConfigError: it cannot be read, is no YAML, or its section ``evbus`` is no mapping.
    """
    parser = argparse.ArgumentParser(add_help=False, argument_default=None)
    parser.add_argument("-c", "--config", nargs="?")
    path = parser.parse_known_args()[0].config or os.environ.get("EVBUS_CONFIG")
    if not path:
        return
    sections = _profiles.load_yaml(pathlib.Path(path))
    for name in ("evbus", "pop_config"):
        if not isinstance(sections.get(name, {}), dict):
            raise SettingsError(f"{path}: {name}: this is a mapping of options to values")
