"""The options of the section ``evbus``, read once into a frozen, typed object, and those of plugins."""

from __future__ import annotations

import difflib
import math
import os
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec

from evbus import conf
from evbus.engine.core.dead_path import default_path
from evbus.engine.kit.units import Bytes, Seconds, UnitError, with_units
from evbus.errors import PluginError, SettingsError, nearest

__all__ = [
    "OPTIONS",
    "DeliverySettings",
    "Retry",
    "Settings",
    "check_options",
    "declared_options",
    "environment",
    "explain",
    "listed",
    "plain",
    "read_own",
    "read_settings",
    "refuse_unknown",
]


#: The largest ``concurrency`` of a lane, whose workers are there from the start.
MOST_AT_ONCE = 1000


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of retries: how often and how soon a failed event is tried again.

    :ivar attempts: tries in all before the event is a dead letter; 0 tries for ever.
    :ivar min: the bound of the first pause in seconds; it doubles with every further failure.
    :ivar max: the largest bound in seconds. The pause is a random part of the bound (full jitter).
    """

    attempts: int = 10
    min: Seconds = 0.1
    max: Seconds = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 0:
            raise ValueError("attempts must be 0 (for ever) or more")
        if not 0 < self.min <= self.max < math.inf:
            raise ValueError("min and max are seconds with 0 < min <= max")


class DeliverySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The key ``delivery`` of a profile: the same for every transport.

    :ivar durable: keep accepted events on disk.
    :ivar batch: most events handed to ``publish_batch`` at once.
    :ivar concurrency: publishes in flight at once, 1,000 at most; 1 keeps the order of put.
    :ivar buffer: events that the lane may hold in memory.
    :ivar on_full: what happens beyond the buffer: ``block`` (held, and counted against the bounds of
        the bus), ``drop_oldest`` or ``spill`` (to disk).
    :ivar retry: see :class:`Retry`.
    :ivar dead_letter: name of the profile that gets the events given up; default: the dead store.
    :ivar timeout: seconds that one attempt may take; 0 for any time.
    """

    durable: bool = False
    batch: int = 500
    concurrency: int = 1
    buffer: int = 10_000
    on_full: Literal["block", "spill", "drop_oldest"] = "block"
    retry: Retry = Retry()
    dead_letter: str | None = None
    timeout: Seconds = 60.0

    def __post_init__(self) -> None:
        for name in ("batch", "concurrency", "buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if self.concurrency > MOST_AT_ONCE:
            raise ValueError(
                f"concurrency must be at most {MOST_AT_ONCE:,}: each of them is a task of its own"
            )
        if not 0 <= self.timeout < math.inf:
            raise ValueError("timeout must be 0 (any time) or more seconds")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options that the bus itself reads; ``evbus/conf.py`` documents each.

    :ivar plugin_options: those that plugins declare in ``OPTIONS``. Each is an attribute, too.
    """

    serialize_plugin: str = "json"
    json_types: tuple[str, ...] | None = None
    json_fallback: Literal["error", "repr"] = "error"
    msgpack_content_type: Literal[
        "application/msgpack", "application/vnd.msgpack", "application/x-msgpack"
    ] = "application/msgpack"
    error_callback_ref: str | None = None
    queue_limit: int = 100_000
    queue_bytes: Bytes = 256 * 1024 * 1024
    full_policy: Literal["raise", "drop_oldest", "drop_newest"] = "raise"
    max_body: Bytes = 1024 * 1024
    drain_timeout: Seconds = 20.0
    pipeline: tuple[str, ...] | None = None
    plugin_dirs: tuple[str, ...] = ()
    listen_to: tuple[str, ...] | None = None
    dead_store: str | None = None
    dead_store_bytes: Bytes = 256 * 1024 * 1024
    event_source: str | None = None
    event_mode: Literal["binary", "structured"] = "binary"
    engine_workers: int = 100
    dispatch_backlog: int = 10_000
    sign_keys: tuple[str, ...] | None = None
    sign_tolerance: Seconds = 300.0
    sign_limit: int = 1_000_000
    compress_with: Literal["auto", "zstd", "zlib"] = "auto"
    compress_over: Bytes = 1024
    dedupe_window: Seconds = 3600.0
    dedupe_limit: int = 100_000
    services: str | dict[str, Any] | None = None
    service_timeout: Seconds = 30.0
    plugin_options: dict[str, Any] = {}

    if not typing.TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name in self.__struct_fields__:
                raise AttributeError(name)
            if name not in self.plugin_options:
                hint = nearest(name, [*OPTIONS, *self.plugin_options])
                raise AttributeError(
                    f"there is no option {name!r}{hint}; a plugin declares its own in OPTIONS"
                )
            return self.plugin_options[name]

    def __repr__(self) -> str:
        # Without the keys, which would else be in every traceback and log that shows the settings.
        shown = ((name, getattr(self, name)) for name in OPTIONS if name != "sign_keys")
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown)})"

    def __post_init__(self) -> None:
        for name in (
            "queue_limit",
            "queue_bytes",
            "max_body",
            "drain_timeout",
            "dead_store_bytes",
            "engine_workers",
            "dispatch_backlog",
            "compress_over",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number from 0 on")
        for name in ("sign_tolerance", "sign_limit", "dedupe_window", "dedupe_limit", "service_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number above 0")

    def dead_store_path(self) -> Path:
        """Return the file of the dead store: the option, else that of the program.

        It begins with ``~`` when there is no home directory, and then cannot be written.
        """
        if not self.dead_store:
            return default_path()
        try:
            return Path(self.dead_store).expanduser()
        except RuntimeError:
            return Path(self.dead_store)


#: What stands beside them among the arguments of ``evbus.api.bus``, and in a configuration file.
BESIDE = ("profiles", "listeners", "acct_key")
#: The options of evbus itself.
OPTIONS = tuple(name for name in Settings.__struct_fields__ if name != "plugin_options")


def plain(value: Any) -> Any:
    """Return plain dictionaries and lists: POP's own dictionary types are not what msgspec knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def listed(value: Any) -> Any:
    """Return the parts of a comma-separated string, as environment variables hold lists."""
    if isinstance(value, os.PathLike):
        return [os.fspath(value)]
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)):
        return [os.fspath(part) if isinstance(part, os.PathLike) else part for part in value]
    return value


#: What JSON calls otherwise than YAML and Python do.
_KINDS = {"object": "a mapping", "array": "a list"}


def explain(exc: msgspec.ValidationError, schema: type[msgspec.Struct] | None = None) -> tuple[str, str]:
    """Explain an error in words for people; return that and the path of the key (``.retry.attempts``)."""
    reason, _, path = str(exc).partition(" - at `$")
    path = path.rstrip("`")
    missing = re.fullmatch(r"Object missing required field `(.+)`", reason)
    wrong = re.fullmatch(r"Expected `(.+)`, got `(.+)`", reason)
    if missing:
        reason = f"the key {missing[1]!r} is missing"
    elif wrong:
        reason = f"expected {wrong[1].replace('`, `', ' or ')}, found {wrong[2]}"
        reason = re.sub(r"\b(object|array)\b", lambda kind: _KINDS[kind[0]], reason)
    elif reason.startswith("Invalid enum value "):
        value = reason.removeprefix("Invalid enum value ").strip("'")
        choices = [str(choice) for choice in typing.get_args(_type_at(schema, path.split(".")[1:]))]
        reason = f"{value!r} is none of {', '.join(choices)}" if choices else reason
    return reason, path


def _type_at(schema: Any, path: Sequence[str]) -> Any:
    """Return the type of a key below a Struct, None where it is not found."""
    if not path:
        return schema
    for one in (schema, *typing.get_args(schema)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            types = {field.encode_name: field.type for field in msgspec.structs.fields(one)}
            return _type_at(types.get(path[0]), path[1:])
    return None


def read_settings(options: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Settings:
    """Read the options of the section ``evbus``.

    Strings are converted, since environment variables hold nothing else. ``serial_plugin`` is the
    later name of ``serialize_plugin`` and gives way to it when both are set.

    :param own: the options of plugins, read.
    :raises SettingsError: names the option and what would be right.
    """
    data = {key: value for key, value in options.items() if value is not None}
    for key in ("pipeline", "plugin_dirs", "listen_to", "sign_keys", "json_types"):
        if key in data:
            data[key] = listed(data[key])
    if isinstance(data.get("dead_store"), os.PathLike):
        data["dead_store"] = os.fspath(data["dead_store"])
    if "services" in data:
        services = data["services"]
        data["services"] = os.fspath(services) if isinstance(services, os.PathLike) else plain(services)
    serial = data.pop("serial_plugin", None)
    if serial and data.get("serialize_plugin", "json") == "json":
        data["serialize_plugin"] = serial
    own = own or {}
    for key in data:
        # Other packages may add options of their own to the section; a near miss is a typing error.
        if (
            key not in OPTIONS
            and key not in own
            and difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.85)
        ):
            raise _unknown(key, own)
    try:
        known = with_units({key: value for key, value in data.items() if key in OPTIONS}, Settings)
        settings = msgspec.convert(known, Settings, strict=False)
        return msgspec.structs.replace(settings, plugin_options=dict(own)) if own else settings
    except UnitError as exc:
        raise SettingsError(f"evbus{exc.path}: {exc.reason}") from None
    except msgspec.ValidationError as exc:
        reason, path = explain(exc, Settings)
        name, _, rest = reason.partition(" ")
        if not path and name in OPTIONS:
            path, reason = f".{name}", f"it {rest}"
        raise SettingsError(f"evbus{path}: {reason}") from None


def refuse_unknown(names: Iterable[str], settings: Settings) -> None:
    """Refuse options that neither evbus nor a plugin has, where nobody else can have put them.

    :raises SettingsError: names the option and the nearest.
    """
    for name in names:
        if name not in OPTIONS and name not in settings.plugin_options and name != "serial_plugin":
            raise _unknown(name, settings.plugin_options)


def _unknown(name: str, own: Mapping[str, Any]) -> SettingsError:
    known = [*OPTIONS, *BESIDE, *own]
    begun = [one for one in known if one.startswith(name)]
    hint = f"; did you mean {begun[0]!r}?" if begun else nearest(name, known)
    own_hint = "" if "did you mean" in hint else "; a plugin declares options of its own in OPTIONS"
    return SettingsError(f"evbus.{name}: there is no such option{hint}{own_hint}")


# Options that plugin files declare in ``OPTIONS``, with their defaults


def check_options(module: ModuleType) -> None:
    """Check what a plugin file says in ``OPTIONS``: ``{name: default}``.

    :raises PluginError: it is no such mapping, or a name is one of evbus's own.
    """
    options = getattr(module, "OPTIONS", None)
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise PluginError(f"OPTIONS is a mapping of names to defaults, and not {options!r:.80}")
    for name in options:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise PluginError(f"OPTIONS: the name of an option is a name of Python, and not {name!r:.80}")
        if name in conf.CONFIG:
            raise PluginError(f"OPTIONS: {name!r} is an option of evbus itself; give it another name")


def declared_options(modules: Iterable[ModuleType]) -> dict[str, Any]:
    """Return the options that plugin files declare, with their defaults.

    :raises PluginError: two of them declare one option with different defaults.
    """
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for module in modules:
        options = getattr(module, "OPTIONS", None)
        for name, default in options.items() if isinstance(options, Mapping) else ():
            if name in found and found[name] != default:
                raise PluginError(
                    f"OPTIONS: {name!r} has another default in {owners[name]}; give one of them another name",
                    file=str(module.__file__),
                )
            found[name] = default
            owners[name] = str(module.__file__)
    return found


def environment(name: str) -> str:
    """Return the environment variable of an option: ``EVBUS_PII_PATTERN`` for ``pii_pattern``."""
    return f"EVBUS_{name.upper()}"


def read_own(
    options: Mapping[str, Any], known: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the value of each option in ``known``: the one given, the environment's, or its default.

    It has the type of its default: strings are converted, and where that is a list, taken apart at commas.

    :raises SettingsError: a value cannot have that type.
    """
    found = {}
    for name, default in known.items():
        value = options.get(name)
        if value is None:
            value = environ.get(environment(name))
        found[name] = default if value is None else _own_value(name, plain(value), default)
    return found


def _own_value(name: str, value: Any, default: Any) -> Any:
    if default is None:
        return value
    kind = type(default)
    if kind in (list, tuple):
        value = listed(value)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"evbus.{name}: {explain(exc)[0]}") from None
