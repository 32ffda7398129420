"""Choose the pipeline plugins and put them in order, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evbus.errors import SettingsError, nearest

__all__ = ["Interceptor", "arrange"]


class Interceptor(NamedTuple):
    """A pipeline plugin: ``order`` is its ``__order__``, ``optional`` its ``__optional__``."""

    name: str
    order: int = 0
    optional: bool = False


def arrange(plugins: Mapping[str, Interceptor], chosen: Sequence[str] | None) -> list[str]:
    """Return the names of the active plugins, first to last.

    :param chosen: the option ``pipeline``: exactly these, in this order. None: every plugin that is
        not optional, by ``__order__`` and then by name.
    :raises SettingsError: the option names a plugin that there is none of, or one twice.
    """
    if chosen is None:
        active = [plugin for plugin in plugins.values() if not plugin.optional]
        return [plugin.name for plugin in sorted(active, key=lambda plugin: (plugin.order, plugin.name))]
    for index, name in enumerate(chosen):
        if name not in plugins:
            raise SettingsError(
                f"evbus.pipeline[{index}]: there is no pipeline plugin {name!r}{nearest(name, plugins)}"
            )
        if name in chosen[:index]:
            raise SettingsError(f"evbus.pipeline[{index}]: {name!r} is named twice")
    return list(chosen)
