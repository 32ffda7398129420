"""The packages whose listeners and handlers are in use: the option ``listen_to``, and its default."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.plugins.installed import OURS, Dynes, is_ours
from evbus.errors import SettingsError, nearest

__all__ = ["ROOMS", "choose", "others", "unseen"]

#: The rooms of which a program has only its own plugins.
ROOMS = ("component", "handler", "health", "listener")
EVERY = "*"
_HOOK = (
    "an import hook of an editable install hides it from POP: give its project package-dir ="
    '{{"" = "src"}} or {{"" = "."}}, install it with --config-settings editable_mode=compat, or name '
    "{folder} in plugin_dirs"
)


def choose(listen_to: Sequence[str] | None, sections: Iterable[str], found: Dynes) -> dict[str, list[str]]:
    """Return the folders of each of :data:`ROOMS` that belong to this program.

    :param listen_to: the option: names of packages, ``*`` for every one; None for the program's own.
    :param sections: the parts of the configuration that the program has loaded, by name of the package.
    :raises SettingsError: a name stands for no package with such folders.
    """
    owners = {found.owners[folder] for room in ROOMS for folder in _folders(found, room)}
    used = _own(set(sections)) if listen_to is None else _named(listen_to, owners)
    return {
        room: [folder for folder in _folders(found, room) if used(found.owners[folder])] for room in ROOMS
    }


def others(found: Dynes, used: Mapping[str, Sequence[str]]) -> list[Plugin]:
    """Return the files that are not loaded because they are another program's."""
    return [
        Plugin(
            file.stem,
            subsystem=room,
            file=str(file),
            state="not in use",
            reason=f"it belongs to the package {name}; this adds it: listen_to: [{name}]",
        )
        for room in ROOMS
        for folder in _folders(found, room)
        if folder not in used[room]
        for name in [Path(found.owners[folder]).name]
        for file in sorted(Path(folder).glob("[!_.]*.py"))
        if file.stem != "init"
    ]


def unseen() -> list[tuple[str, str, str]]:
    """Return the packages that import hooks hide from POP: name, ``conf.py`` and what would mend it."""
    found = []
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        mapping = getattr(module, "MAPPING", None)
        for name, place in mapping.items() if isinstance(mapping, Mapping) else ():
            folder = Path(str(place))
            if str(folder) != OURS and str(folder.parent) not in sys.path and _declares(folder):
                found.append((str(name), str(folder / "conf.py"), _HOOK.format(folder=folder)))
    return found


def _declares(folder: Path) -> bool:
    try:
        return "DYNE" in (folder / "conf.py").read_text()
    except (OSError, ValueError):
        return False


def _folders(found: Dynes, room: str) -> list[str]:
    entry = found.get(room)
    return [] if entry is None else [path for path in entry["paths"] if not is_ours(path)]


def _named(listen_to: Sequence[str], owners: set[str]) -> Callable[[str], bool]:
    known = {Path(owner).name for owner in owners}
    for index, name in enumerate(listen_to):
        if name not in known and name != EVERY:
            raise SettingsError(f"evbus.listen_to[{index}]: {_absent(name, known)}")
    return lambda owner: EVERY in listen_to or Path(owner).name in listen_to


def _absent(name: str, known: set[str]) -> str:
    for hidden, _, reason in unseen():
        if hidden == name:
            return f"the package {name!r} is not used: {reason}"
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return f"there is no package {name!r}{nearest(name, known)}"
    return (
        f"the package {name!r} has no listeners or handlers for POP: its conf.py names the folder, such as "
        'DYNE = {"listener": ["listener"]}'
    )


def _own(sections: set[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a package is that of the running program."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    names = sections | ({spec.name.partition(".")[0]} if spec is not None else set())
    if not (file or "").endswith(".py"):
        # The script that an installer writes for a command holds nothing but the function to call.
        names |= {str(getattr(value, "__module__", "")).partition(".")[0] for value in vars(main).values()}
    path = Path(os.path.realpath(file)) if file else None

    def own(owner: str) -> bool:
        real = Path(os.path.realpath(owner))
        return real.name in names or (
            path is not None and (real in path.parents or real.parent == path.parent)
        )

    return own
