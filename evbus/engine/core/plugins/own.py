"""Options of plugins of somebody's own: a file declares them in ``OPTIONS``, with their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import msgspec

from evbus import conf
from evbus.engine.core.settings import explain, listed, plain
from evbus.errors import PluginError, SettingsError

__all__ = ["check_options", "declared", "environment", "read"]


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


def declared(modules: Iterable[ModuleType]) -> dict[str, Any]:
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


def read(options: Mapping[str, Any], known: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of each option in ``known``: the one given, the environment's, or its default.

    It has the type of its default: strings are converted, and where that is a list, taken apart at commas.

    :raises SettingsError: a value cannot have that type.
    """
    found = {}
    for name, default in known.items():
        value = options.get(name)
        if value is None:
            value = environ.get(environment(name))
        found[name] = default if value is None else _typed(name, plain(value), default)
    return found


def _typed(name: str, value: Any, default: Any) -> Any:
    if default is None:
        return value
    kind = type(default)
    if kind in (list, tuple):
        value = listed(value)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"evbus.{name}: {explain(exc)[0]}") from None
