"""The command ``evbus``: options, configuration files, logging, and the end of the process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import gc
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn, cast

from pop_config import conf as pop_conf

from evbus import conf
from evbus.engine.cli import output
from evbus.engine.core import profiles as core_profiles
from evbus.engine.core.plugins import installed
from evbus.engine.core.settings import environment, plain
from evbus.engine.kit.units import Unit, UnitError, number
from evbus.errors import ConfigError, EvbusError, SettingsError, nearest

__all__ = ["run"]

log = logging.getLogger("evbus")

CONFIG: Any = conf.CONFIG
CLI_CONFIG: Any = conf.CLI_CONFIG
#: The sections of a configuration file that are read.
SECTIONS = ("evbus", "pop_config")
#: What else may stand beside them: pop-config reads further files.
INCLUDES = ("include", "include_dir")
UNDELIVERED = 1
MISTAKE = 2
STOPPED = 130
#: Seconds that threads and tasks of plugins have to end once the command has said what became of the events.
LINGER = 1.0

DESCRIPTION = "A plug-in event bus: every event goes to every destination that wants it."
EXIT_CODES = """exit codes:
  0    everything was delivered, or all is well
  1    something was not delivered or handled (run, put, demo, tail, replay), was left by the stop (listen,
       serve), cannot be reached (check, call, services), or was raised by the method (call)
  2    a mistake in the options, the profiles or the plugins; nothing was done
  3    everything was delivered but for what was refused: a line that is no event, or a body too large
  130  stopped at once by a second Ctrl-C or SIGTERM; what was not delivered is in the dead
       store, or said to be lost
"""


class _Parser(argparse.ArgumentParser):
    """A parser that takes durations with their unit, and says of a mistake what would be right.

    Those of the subcommands are of the same class.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if {"--config-template", "--versions-report"} & set(sys.argv):
            for action in self._actions:
                action.required = False
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        command = getattr(found, "_subparser_", None)
        parser = self._parser_of(command)
        for action in parser._actions if rest else ():
            several = action.nargs == "*" and not action.option_strings
            if several and not any(one.startswith("-") for one in rest):
                # argparse gives it none of those that stand behind an option.
                setattr(found, action.dest, [*(getattr(found, action.dest) or ()), *rest])
                return found
        if rest:
            strange = [one for one in rest if one.startswith("-")]
            parser._refuse((strange or rest)[0], command)
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; {self.prog} --help says more\n")

    def _refuse(self, argument: str, command: str | None) -> NoReturn:
        written = argument.partition("=")[0]
        if not written.startswith("-"):
            profiles = (
                "; a file of profiles is named by --profiles" if written.endswith((".yml", ".yaml")) else ""
            )
            self.error(f"{written!r} is one argument too many{profiles}")
        if written in self._option_string_actions:
            self.error(f"{written} is an option of the command, and stands behind it")
        if command and _name(written) in CONFIG and _name(written) not in CLI_CONFIG:
            self.error(f"{written} is no option of the command line, but {_elsewhere(_name(written))}")
        known = [one for one in self._option_string_actions if one.startswith("--")]
        hint = nearest(written, known)
        if command == "call" and "did you mean" not in hint:
            hint = f"; arguments of the method are written {_name(written)}=value"
        self.error(f"there is no option {written}{hint}")

    def _parser_of(self, command: str | None) -> _Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                return cast("_Parser", action.choices[command])
        return self

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            self.error(f"there is no command {value!r}{nearest(value, action.choices)}")
        super()._check_value(action, value)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.dest in ("drain_timeout", "timeout"):
            try:
                arg_string = str(number(arg_string, Unit.SECONDS))
            except UnitError as exc:
                raise argparse.ArgumentError(action, str(exc)) from None
        return super()._get_value(action, arg_string)


def _name(written: str) -> str:
    """Return the name of the option that is written ``--so-on``."""
    return written.lstrip("-").replace("-", "_")


def _elsewhere(name: str) -> str:
    """Name the places of an option of evbus beside the command line."""
    variable = CONFIG[name].get("os")
    return f"stands in the section evbus of a configuration file{f', or in {variable}' if variable else ''}"


class _Unset(list[Any]):
    """A list that pop-config takes for an option that was not given; argparse appends to a copy of it."""


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
    hub = installed.new_hub()
    hub.pop.sub.add(dyne_name="log", pypath="evbus.log")
    try:
        _configure(hub)
        if not hub.SUBPARSER:
            output.say(hub.args.parser.help())
            return MISTAKE
        hub.pop.sub.add(subname="command", pypath="evbus.command", load_all=False)
        gc.freeze()
        gc.enable()
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
    sections = _check_file()
    if not hasattr(pathlib, "os"):
        # pop-config 12 reads its files with pathlib.os, which is gone since Python 3.13.
        pathlib.os = os  # type: ignore[attr-defined,unused-ignore]
    with _without_pip():
        hub.pop.sub.add(dyne_name="config")
        _read_empty(hub)
        _leave_out_arguments(hub)
        _set_parser(hub)
        _leave_out_commands(hub)
        hub.pop.config.load(["evbus"], cli="evbus", logs=False)
    _set_own(hub)
    _set_logging(hub)
    others = sorted(map(str, set(sections) - {*SECTIONS, *INCLUDES}))
    if others:
        log.warning(
            "%s of the configuration file is read by nothing here: %s",
            "a section" if len(others) == 1 else "sections",
            ", ".join(others),
        )
    variables = {option["os"] for option in CONFIG.values() if "os" in option}
    for name in sorted(os.environ):
        hint = nearest(name, variables, cutoff=0.85) if name.startswith("EVBUS_") else ""
        if name not in variables and "did you mean" in hint:
            log.warning("the environment variable %s is read by nothing here%s", name, hint)
    own = [key for key in hub.OPT.evbus if key not in CONFIG]
    if own:
        hub.evbus.init.refuse_unknown(own)


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
    hub.args.PARSER = _Parser(
        prog="evbus",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
    )
    hub.args.SUBPARSER = hub.args.PARSER.add_subparsers(
        dest="_subparser_", metavar="COMMAND", title="commands", description="evbus COMMAND --help says more"
    )


def _leave_out_commands(hub: Any) -> None:
    """Add the options of a command to its parser only if it is called: each has some twenty."""
    add = hub.args.subcommands.apply_single
    apply = add.func

    def apply_single(hub: Any, subparser: str, context: Any, definition: Any) -> None:
        if subparser in sys.argv:
            apply(hub, subparser, context, definition)

    add.func = apply_single


def _leave_out_arguments(hub: Any) -> None:
    """Let ``--config-template`` leave out what stands behind a command and is no option."""
    template = hub.config.template.get
    get = template.func
    template.func = lambda hub, options: {
        section: {
            name: value for name, value in part.items() if not CLI_CONFIG.get(name, {}).get("positional")
        }
        for section, part in get(hub, options).items()
    }


def _read_empty(hub: Any) -> None:
    """Let pop-config read a file, or sections, in which everything is commented out: it dies of them."""
    render = hub.render.yaml.render
    read = render.func
    render.func = lambda hub, text: {
        key: {} if part is None else part for key, part in (read(hub, text) or {}).items()
    }


def _set_own(hub: Any) -> None:
    """Add the options of plugins that the environment and ``--set`` give, which pop-config does not know."""
    given = {
        name: os.environ[environment(name)]
        for name in hub.OPT.evbus
        if name not in CONFIG and environment(name) in os.environ
    }
    for option in hub.OPT.evbus.get("set") or ():
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise SettingsError(f"--set {option!r}: an option is given as name=value")
        if name in CONFIG:
            taken = hub.SUBPARSER in CLI_CONFIG.get(name, {}).get("subcommands", ())
            way = f"is given as --{name.replace('_', '-')}" if taken else _elsewhere(name)
            raise SettingsError(f"--set {option!r}: this is an option of evbus itself, which {way}")
        given[name] = value
    if given:
        hub.OPT = hub.pop.data.imap({**plain(hub.OPT), "evbus": {**plain(hub.OPT.evbus), **given}})


def _set_logging(hub: Any) -> None:
    options = hub.OPT.pop_config
    level = str(options.log_level).strip().lower()
    # The help of pop-config names quiet, which changes nothing.
    known = [*hub.log.LEVEL, "quiet"]
    if not level.isdigit() and level not in known:
        raise SettingsError(f"log_level: there is no level {options.log_level!r}{nearest(level, known)}")
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


def _check_file() -> dict[str, Any]:
    """Check the configuration file, of which pop-config passes over mistakes or dies; return its sections.

    :raises ConfigError: it cannot be read, is no YAML, or a section is no mapping or has a wrong name.
    """
    parser = argparse.ArgumentParser(add_help=False, argument_default=None)
    parser.add_argument("-c", "--config", nargs="?")
    path = parser.parse_known_args()[0].config or os.environ.get("EVBUS_CONFIG")
    if not path:
        return {}
    sections = core_profiles.load_yaml(pathlib.Path(path))
    for name, part in sections.items():
        if name in CONFIG and (name == "profiles" or not isinstance(part, dict)):
            raise SettingsError(
                f"{path}: {name}: this is an option of the section evbus, and stands below 'evbus:'"
            )
        if name not in SECTIONS and difflib.get_close_matches(str(name).lower(), SECTIONS, n=1, cutoff=0.7):
            raise SettingsError(
                f"{path}: {name}: there is no such section{nearest(str(name).lower(), SECTIONS)}"
            )
    for name, part in sections.items():
        if name not in INCLUDES and not isinstance(part or {}, dict):
            raise SettingsError(f"{path}: {name}: a section is a mapping of options to values")
    for name in sections.get("pop_config") or ():
        if name not in pop_conf.CONFIG:
            raise SettingsError(
                f"{path}: pop_config.{name}: there is no such option{nearest(name, pop_conf.CONFIG)}"
            )
    return sections
