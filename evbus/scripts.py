"""The command ``evbus``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pop.hub

from evbus import conf
from evbus.errors import ConfigError, EvbusError, SettingsError, nearest
from evbus.evbus import _profiles

__all__ = ["main"]

UNDELIVERED = 1
MISTAKE = 2
STOPPED = 130

DESCRIPTION = "A plug-in event bus: every event goes to every destination that wants it."
EXIT_CODES = """exit codes:
  0    everything was delivered, or all is well
  1    something was not delivered (run, put, demo, tail, replay), or cannot be reached (check)
  2    a mistake in the options, the profiles or the plugins; nothing was done
  3    everything was delivered but for what was refused: a line that is no event, or a body too large
  130  stopped at once by a second Ctrl-C or SIGTERM; what was not delivered is in the dead store
"""


class _Unset(list[Any]):
    """What pop-config takes an option for that was not given; argparse appends to a copy of it."""


def main() -> None:
    """Run the command line and exit with its code; see ``evbus --help``."""
    try:
        code = _main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read standard output went away. The interpreter flushes it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNDELIVERED
    sys.exit(code)


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
            sys.stdout.write(hub.args.parser.help())
            return MISTAKE
        hub.pop.sub.add(subname="command", pypath="evbus.command")
        return asyncio.run(_run(hub, hub.SUBPARSER, dict(hub.OPT.evbus)))
    except ConfigError as exc:
        sys.stderr.write(f"evbus: {exc}\n")
        return MISTAKE
    except EvbusError as exc:
        sys.stderr.write(f"evbus: {exc}\n")
        return UNDELIVERED
    except KeyboardInterrupt:
        return STOPPED


async def _run(hub: Any, name: str, options: dict[str, Any]) -> int:
    return await hub.command[name].main(options)  # type: ignore[no-any-return]


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
