"""The folders that installed packages merge into the hub, found as POP finds them.

POP executes the ``conf.py`` of every folder below ``sys.path`` and merges the folders of its ``DYNE``.
A folder that is not there, or another shape of it, ends every program, and two copies of one package become a
mixture. Here such mistakes are told as broken plugins, and of evbus only the copy counts that Python imports.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dict_tools.update
import pop.dirs
import pop.hub

import evbus
from evbus import conf
from evbus.engine.core.endpoint import Plugin

__all__ = [
    "LOADING",
    "Dynes",
    "declared",
    "is_ours",
    "loading",
    "merge",
    "new_hub",
    "open_later",
    "scan",
    "take_out_copies",
    "take_out_doubles",
]

log = logging.getLogger("evbus")

#: Held while plugin files are loaded: POP shows other threads files that are not executed to their end yet.
LOADING = threading.RLock()

OURS = os.path.realpath(Path(evbus.__file__).parent)
#: What is beside packages, and is none.
METADATA = (".dist-info", ".egg-info")
PARTS = ("CONFIG", "CLI_CONFIG", "SUBCOMMANDS")
#: The rooms of acct, rend and pop-serial that pop-evbus 6 and 7 opened at every start.
LATER = ("acct", "crypto", "output", "rend", "serial")
_ROOM = re.compile(r"""["'](""" + "|".join(conf.DYNE) + r""")["']""")


def _new_lock() -> None:
    global LOADING  # noqa: PLW0603 - whoever held it does not exist in the child
    LOADING = threading.RLock()
    if _resting:
        _resting.clear()
        gc.enable()


#: Holds something while the collector is at rest because plugins are being loaded.
_resting: list[bool] = []
os.register_at_fork(after_in_child=_new_lock)


class Dynes(dict[str, dict[str, Any]]):
    """The folders (``paths``) and options of all packages by room, as POP keeps them.

    :ivar owners: the folder of the package that declared each path.
    :ivar problems: what is not used, as broken plugins that are called as their packages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, str] = {}
        self.problems: list[Plugin] = []

    def tell(self, room: str, package: str, file: str, reason: str) -> None:
        """Note why a folder that a ``conf.py`` declares for a room is not used."""
        self.problems.append(Plugin(package, subsystem=room, file=file, state="broken", reason=reason))


class _Later(dict[str, Any]):
    """The imports of a hub, with the rooms of :data:`LATER`, opened when they are first asked for.

    It takes the place of ``hub._imports``, where POP looks last.
    """

    def __init__(self, hub: Any) -> None:
        super().__init__(hub._imports)
        self._hub = hub

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (name in LATER and name in declared(self._hub))

    def __missing__(self, name: str) -> Any:
        with LOADING:
            self._hub.pop.sub.add(dyne_name=name)
            return self._hub._subs[name]


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Hold :data:`LOADING`, with the collector at rest: nearly all that loading makes is there to stay."""
    with LOADING:
        first = gc.isenabled()
        if first:
            _resting.append(True)
            gc.disable()
        try:
            yield
        finally:
            if first:
                _resting.clear()
                gc.enable()


def new_hub() -> Any:
    """Return a new hub with the bus on it."""
    with loading():
        hub = pop.hub.Hub()
        merge(hub)
    return hub


def merge(hub: Any) -> None:
    """Put the bus on a hub, unless it is there."""
    with loading():
        if not hub._dscan:
            declared(hub)
        hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")


def declared(hub: Any) -> Dynes:
    """Return the declarations of packages, from now on without those that cannot be used."""
    if not isinstance(hub._dynamic, Dynes):
        hub._dynamic = scan()
        hub._dscan = True
    return hub._dynamic


def scan() -> Dynes:
    """Look at the ``conf.py`` of every folder below ``sys.path``."""
    found = Dynes()
    for package in _packages():
        file = os.path.join(package, "conf.py")  # noqa: PTH118 - thousands of them at every start
        if os.path.isfile(file):  # noqa: PTH113
            _read(found, package, file)
    for entry in found.values():
        # In POP's order.
        entry["paths"] = pop.dirs.UniqueDirList([*entry["paths"][:1], *sorted(entry["paths"][1:])])
    return found


def _packages() -> Iterator[str]:
    seen = set()
    for place in filter(None, list(sys.path)):
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            name, folder = entry.name, os.path.normpath(entry.path)
            if name.endswith(".egg-link"):
                try:
                    folder = os.path.normpath(Path(folder).read_text().splitlines()[0])
                except (OSError, ValueError, IndexError):
                    continue
            elif name.endswith(METADATA) or not os.path.isdir(folder):  # noqa: PTH112 - it raises nothing
                continue
            if folder not in seen:
                seen.add(folder)
                yield folder


def _read(found: Dynes, package: str, file: str) -> None:
    try:
        code = Path(file).read_text()
    except (OSError, ValueError):
        return
    if "DYNE" not in code:
        return
    name = Path(package).name
    if name == "evbus" and os.path.realpath(package) != OURS:
        log.info(
            "%s is another copy of evbus than %s, which Python imports, and is passed over", package, OURS
        )
        return
    context: dict[str, Any] = {}
    try:
        exec(code, context)  # noqa: S102 - as POP does, without a name, a file or a package
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        named = _ROOM.search(code)
        if named:
            said = f"{type(exc).__name__}: {exc}"
            reason = f"POP cannot execute it, which it does without __file__ and package: {said}"
            found.tell(named[1], name, file, reason)
        return
    _take(found, package, file, context)


def _take(found: Dynes, package: str, file: str, context: dict[str, Any]) -> None:
    name, dyne = Path(package).name, context.get("DYNE")
    if dyne is None:
        return
    if not isinstance(dyne, dict):
        room = _ROOM.search(repr(dyne))
        if room:
            reason = f"DYNE is a mapping of names to lists of folders, and not {dyne!r:.80}"
            found.tell(room[1], name, file, reason)
        return
    for room, paths in dyne.items():
        if not isinstance(room, str):
            continue
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            reason = f"DYNE[{room!r}] is a list of folders, and not {paths!r:.80}"
            found.tell(room, name, file, reason)
            continue
        for path in paths:
            folder = os.path.normpath(os.path.join(package, path.replace(".", os.sep)))  # noqa: PTH118
            reason = _unusable(folder)
            if reason:
                found.tell(room, name, file, reason)
            else:
                _add(found, room, package, folder)
        for part in PARTS if room in found else ():
            try:
                dict_tools.update.update(found[room][part], context.get(part, {}))
            except Exception as exc:
                reason = f"its {part} cannot be read: {type(exc).__name__}: {exc}"
                found.tell(room, name, file, reason)


def _unusable(folder: str) -> str:
    if not Path(folder).is_dir():
        return (
            f"DYNE names the folder {folder}, which is not there; setuptools' find: leaves "
            "folders without an __init__.py out of a wheel, find_namespace: does not"
        )
    return (
        ""
        if os.access(folder, os.R_OK | os.X_OK)
        else f"DYNE names the folder {folder}, which cannot be read"
    )


def _add(found: Dynes, room: str, package: str, folder: str) -> None:
    entry = found.setdefault(room, {"paths": pop.dirs.UniqueDirList(), **{part: {} for part in PARTS}})
    entry["paths"].insert(0 if package.endswith(room) else len(entry["paths"]), folder)
    found.owners.setdefault(folder, package)


def open_later(hub: Any) -> None:
    """Let the rooms of :data:`LATER` be on a hub when they are asked for, if they are installed."""
    if not isinstance(hub._imports, _Later):
        hub._imports = _Later(hub)


def is_ours(file: str) -> bool:
    """Return whether a file belongs to the copy of evbus that Python imports."""
    return os.path.realpath(file).startswith(OURS + os.sep)


def take_out_doubles(sub: Any) -> None:
    """Let the contracts of a folder that stands twice on ``sys.path``, once through a link, run once."""
    places = [tuple(map(os.path.realpath, one._dirs)) for one in sub._contract_subs]
    sub._contract_subs[:] = [one for n, one in enumerate(sub._contract_subs) if places.index(places[n]) == n]


def take_out_copies(sub: Any) -> None:
    """Let POP, while it loads ``sub``, take our files in place of those of another copy of evbus."""
    take_out_doubles(sub)
    strays = [folder for folder in sub._dirs if Path(folder).parent.name == "evbus" and not is_ours(folder)]
    if not strays:
        return
    for bname, entry in sub._scan["python"].items():
        if str(Path(bname).parent) in strays:
            # POP is in the middle of them: none may go.
            ours = Path(OURS, sub._subname, f"{Path(bname).name}.py")
            entry.update(path=str(ours) if ours.exists() else entry["path"], loaded=True)
    sub._dirs[:] = [folder for folder in sub._dirs if folder not in strays]
    sub._contract_subs[:] = [
        one
        for one in sub._contract_subs
        if not {str(Path(folder).parent) for folder in one._dirs} & set(strays)
    ]
