"""Listeners that stand in modules: those that are handed over, and those that nobody has subscribed."""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from evbus.engine.handling.events.declare import MODULES, SUBSCRIBED, ListenerSpec
from evbus.engine.handling.events.listener import declared, line_of, listens
from evbus.engine.handling.providers import name_of
from evbus.engine.kit.failure import place
from evbus.engine.kit.owner import owner
from evbus.engine.kit.redact import one_line, problem_text
from evbus.errors import ConfigError, HandlerSignatureError

__all__ = ["Forgotten", "imported", "listeners_of", "places", "subscribed", "tree"]

log = logging.getLogger("evbus.event")


def places(given: Any) -> list[Any]:
    """Return the places in the option ``listeners``: several or, as a list is easily forgotten, one."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, (str, type)) else [given]


def imported(name: str, folder: str, *, whole: bool = False) -> ModuleType:
    """Import a module.

    :param folder: is looked in as well.
    :param whole: import the modules below it, too.
    :raises ConfigError: there is no such module, or importing it fails.
    """
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
        if whole:
            for _ in tree(module):
                pass
        return module
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{name}.".startswith(f"{exc.name}."):
            raise ConfigError(
                f"there is no module {name!r}; it is looked for in {folder} and where Python finds packages"
            ) from None
        reason = one_line(str(exc)) if isinstance(exc, ModuleNotFoundError) else problem_text(exc)
        where = place(exc)
        if isinstance(exc, SyntaxError) and exc.filename:
            reason, where = f"it is not valid Python: {exc.msg}", f"{exc.filename}:{exc.lineno}"
        raise ConfigError(
            f"the module {name!r} cannot be imported: {reason}{f' ({where})' if where else ''}"
        ) from exc


def listeners_of(where: Any) -> list[tuple[Any, ListenerSpec]]:
    """Return the listeners of a module, of a package with all its modules, or what one function or class is.

    :raises HandlerSignatureError: there is none.
    """
    if isinstance(where, ModuleType):
        found = [one for module in tree(where) for one in declared(module)]
        if not found:
            raise HandlerSignatureError(
                f"{where.__name__} has no listener: a function or class with @event_listener(Event)"
            )
        return found
    if not callable(where):
        raise HandlerSignatureError(
            f"listeners are modules, packages, or functions and classes with @event_listener(Event), and not "
            f"{where!r:.80}"
        )
    found = [(where, spec) for spec in listens(where)]
    if not found:
        raise HandlerSignatureError(
            "it has no @event_listener(Event), which says what it listens to; or subscribe(Event, it)",
            handler=name_of(where),
        )
    return found


def tree(module: ModuleType) -> Iterator[ModuleType]:
    """Yield a module, and those below it, which are imported."""
    yield module
    below = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}.")
    for name in sorted(info.name for info in below):
        # Importing that would run the program.
        if not name.endswith(".__main__"):
            yield from tree(importlib.import_module(name))


def subscribed(listener: Any) -> None:
    """Note that somebody has subscribed a listener."""
    with contextlib.suppress(TypeError):  # an object that cannot be hashed, which no module declares
        SUBSCRIBED.add(listener)


class Forgotten:
    """Tells of listeners of the program's own modules that nobody has subscribed, each once in a process.

    :param plugin: tells whether the module of a name, made of a file, is a plugin. Whoever loads plugins has
        subscribed its listeners, or has said why not.
    :ivar muted: whether it tells nothing, as in tests, which subscribe what they need.
    """

    def __init__(self, plugin: Callable[[str, str], bool]) -> None:
        self.muted = False
        self._plugin = plugin

    def tell(self) -> None:
        """Look at the modules that have been imported."""
        if self.muted:
            return
        for name in sorted(MODULES):
            module = sys.modules.get(name)
            file = getattr(module, "__file__", None)
            if module is None or file is None or self._plugin(name, file) or not _of_program(name, file):
                continue
            for listener, spec in list(declared(module)):
                if listener not in SUBSCRIBED:
                    SUBSCRIBED.add(listener)
                    _tell(listener, spec, name, file)


def _of_program(name: str, file: str) -> bool:
    whose = owner(file)
    # A program may be installed as libraries are.
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    main = str(getattr(spec, "name", "")).partition(".")[0]
    return whose == "program" or (whose == "library" and name.partition(".")[0] == main)


def _tell(listener: Any, spec: ListenerSpec, module: str, file: str) -> None:
    event = spec.event if isinstance(spec.event, str) else spec.event.__qualname__
    what = listener.__qualname__ if module == "__main__" else module
    log.warning(
        "nobody has subscribed the listener %s of %s (%s:%d), and so it is not called; "
        "bus(..., listeners=[%s]) or hub.event.listen(%s) does it",
        listener.__qualname__,
        one_line(event),
        one_line(file),
        line_of(listener),
        what,
        what,
    )
