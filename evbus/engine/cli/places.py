"""What the command line names modules by: names, files and folders."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from evbus.engine.handling.events.modules import imported, tree
from evbus.engine.kit.paths import expanded
from evbus.errors import ConfigError, nearest

__all__ = ["Places", "places"]

#: The folder that shows that a folder is one of plugins.
_COMPONENT = "component"
#: What a file has that is worth importing: another one may be a program, which would run.
_DECLARES = re.compile(r"^[ \t]*@(\w+\.)*(implementation|component|service|health_checks)\b", re.MULTILINE)


class Places(NamedTuple):
    """What was named.

    :ivar modules: are imported.
    :ivar plugins: folders for the option ``plugin_dirs``.
    """

    modules: list[ModuleType]
    plugins: list[str]


def places(named: Iterable[str], folder: Path) -> Places:
    """Return what is named: a module, a package, a file, a folder of plugins, or one of files.

    A folder of plugins has a folder ``component/``. A package stands for all modules in it, and another
    folder for its files that declare an interface, a component, an implementation or health checks.

    :param folder: the current one, in which modules are looked for as well.
    :raises ConfigError: there is no such thing, or importing it fails.
    """
    modules: list[ModuleType] = []
    plugins = []
    for name in named:
        path = expanded(name, "the folder")
        if (path / _COMPONENT).is_dir():
            plugins.append(name)
        elif path.is_dir() and not _is_package(path):
            modules.extend(_in_folder(path, name))
        elif path.is_dir() or path.suffix == ".py" or "/" in name:
            modules.extend(_at(path, name))
        else:
            modules.extend(_called(name, folder))
    return Places(list(dict.fromkeys(modules)), plugins)


def _called(name: str, folder: Path) -> Iterator[ModuleType]:
    """Yield a module, and those below it.

    :raises ConfigError: there is none; names the nearest of those in the current folder.
    """
    try:
        return tree(imported(name, str(folder), whole=True))
    except ConfigError as exc:
        close = nearest(name, [one.name for one in pkgutil.iter_modules([str(folder)])])
        if exc.__cause__ is not None or "did you mean" not in close:
            raise
        raise ConfigError(f"{exc}{close}") from None


def _in_folder(path: Path, name: str) -> Iterator[ModuleType]:
    """Yield the modules of the files in a folder.

    :raises ConfigError: there is none.
    """
    files = [file for file in sorted(path.glob("*.py")) if file.name[0] not in "_."]
    files = [file for file in files if _DECLARES.search(file.read_text("utf-8", "replace"))]
    if not files:
        raise ConfigError(
            f"the folder {name} has neither a folder {_COMPONENT}/ nor files of Python with @service(), "
            "@component(), @implementation() or @health_checks()"
        )
    for file in files:
        yield from _at(file, name)


def _at(path: Path, name: str) -> Iterator[ModuleType]:
    """Yield the module of a file, or those of a package.

    :raises ConfigError: it is none, or cannot be imported.
    """
    if not path.exists():
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, beside)
        raise ConfigError(
            f"there is no file or folder {name} in {Path.cwd()}{close if 'did you mean' in close else ''}"
        )
    path = path.resolve()
    path = path.parent if path.name == "__init__.py" else path
    if path.is_file() and path.suffix != ".py":
        raise ConfigError(f"{name} is no file of Python, whose name ends in .py")
    names, root = [path.stem], path.parent
    while _is_package(root):
        names.insert(0, root.name)
        root = root.parent
    module = imported(".".join(names), str(root), whole=True)
    file = Path(str(module.__file__)).resolve()
    if file not in (path, path / "__init__.py"):
        raise ConfigError(
            f"{path} is called as another module is, {file}, in whose place it cannot be imported; rename it"
        )
    return tree(module)


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()
