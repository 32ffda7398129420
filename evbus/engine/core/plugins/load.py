"""Load the plugins of a subsystem one by one, so that a broken file harms nobody else.

This engine works on POP's own ``Sub`` objects: POP loads a folder as a whole, lets the exception of
one file abort it, merges files of the same name silently, and remembers half-executed modules.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pop.exc
import pop.loader

from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.plugins.installed import take_out_doubles
from evbus.engine.core.settings import check_options
from evbus.errors import PluginError

__all__ = ["Check", "load_plugins", "module_of", "name_in_pop", "open_room"]

Check = Callable[[ModuleType], None]


class _DisabledError(Exception):
    """A file says itself that it is not to be loaded, and why."""


def open_room(hub: Any, room: str, package: str, *, merged: bool = True) -> None:
    """Make the subsystem ``room`` of this package's folder, and with ``merged`` of those of others.

    Only this package's ``init.py`` is loaded: :func:`load_plugins` loads the rest.
    """
    if room in hub._subs:
        hub.pop.sub.extend(room, pypath=package)
        return
    hub.pop.sub.add(subname=room, pypath=package, load_all=False)
    if not merged:
        return
    # With dyne_name, POP would run the init.py of every package, and one that fails would end it all.
    hub[room]._dyne_name = room
    hub[room]._prepare()


def load_plugins(sub: Any, subsystem: str, check: Check | None = None) -> list[Plugin]:
    """Load every plugin file of ``sub`` and return what became of each, contracts that failed among them.

    Files that cannot be used are taken out of the sub, so that a later access finds nothing there
    instead of half a module. Of two files with one name the first is loaded: this package's own, then
    the folders in their order, and in a folder by file name.

    :param check: raises :class:`~evbus.errors.PluginError` for a module that is no plugin of this kind.
    """
    plugins = _drop_broken_contracts(sub, subsystem)
    owners: dict[str, str] = {}
    off: dict[Path, Exception] = {}
    with _quiet_pop():
        for bname in _in_order(sub):
            file = sub._scan["python"][bname]["path"]
            plugin = _load_one(sub, subsystem, bname, file, check, owners, off)
            if plugin is None:
                continue
            if plugin.state == "loaded":
                owners[plugin.name] = file
            else:
                sub._scan["python"].pop(bname, None)
            plugins.append(plugin)
    sub._loaded_all = True
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.file))


def _in_order(sub: Any) -> list[str]:
    folders = list(sub._dirs)
    # init first: it declares what the plugins of its folder use.
    ordered = sorted(
        sub._scan["python"],
        key=lambda bname: (Path(bname).name != "init", folders.index(str(Path(bname).parent)), bname),
    )
    # The same folder may stand twice on sys.path, once through a link (lib and lib64).
    real = {folder: os.path.realpath(folder) for folder in folders}
    seen = set()
    for bname in ordered:
        folder, name = os.path.split(bname)
        place = (real[folder], name)
        # Nobody calls a plugin .x: an editor calls its lock files and backups so.
        if place in seen or name.startswith("."):
            del sub._scan["python"][bname]
        seen.add(place)
    return [bname for bname in ordered if bname in sub._scan["python"]]


def _load_one(
    sub: Any,
    subsystem: str,
    bname: str,
    file: str,
    check: Check | None,
    owners: dict[str, str],
    off: dict[Path, Exception],
) -> Plugin | None:
    name = Path(bname).name.split(".")[0]
    module_name = name_in_pop(file)
    known = module_name in sys.modules
    try:
        if Path(file).parent in off:
            raise off[Path(file).parent]
        module = _import(module_name, file)
        name = str(getattr(module, "__virtualname__", name))
        if name == "init" and name in owners:
            _check_sub_virtual(sub, module, off)
        if name in owners and name != "init":
            raise PluginError(
                f"the name {name!r} is taken by {owners[name]}; rename the file or its __virtualname__"
            )
        if name in owners:
            _check_init(sub, module, owners[name])
        elif name != "init" and check is not None:
            check(module)
        check_options(module)
        _keep_signatures(module)
        _put_on_sub(sub, bname, name)
        if subsystem in ("ingress", "egress"):
            _check_accepts(sub._loaded[name])
    except Exception as exc:
        # A module may have a __getattr__, and an attribute that POP looks at be anything.
        state = "disabled" if isinstance(exc, _DisabledError) else "broken"
        said = str(exc) if state == "disabled" else _say(exc)
        broken = exc if isinstance(exc, PluginError) else PluginError(said, line=_line(exc, file))
        if not known:
            sys.modules.pop(module_name, None)
        if name not in owners:
            _forget(sub, name)
        return Plugin(
            name,
            subsystem=subsystem,
            file=file,
            state=state,
            reason=broken.reason,
            line=broken.line,
        )
    if name == "init":
        # No plugin: its functions are those of the subsystem.
        owners.setdefault(name, file)
        return None
    return Plugin(name, subsystem=subsystem, file=file)


def _import(module_name: str, file: str) -> ModuleType:
    """Execute the file as POP would, once: POP finds it in ``sys.modules`` then."""
    if not Path(file).is_file():
        # A pipe would be waited for, for ever.
        raise PluginError("it is no file, but a link that leads nowhere, or a folder, pipe, socket or device")
    other = getattr(sys.modules.get(module_name), "__file__", None)
    if other not in (None, file) and os.path.realpath(other) != os.path.realpath(file):
        # shop.eu/same.py and shop/eu/same.py
        raise PluginError(
            f"POP takes it for {other}, whose path differs in dots only; rename one of the folders"
        )
    try:
        module = pop.loader.python(module_name, file)
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        raise PluginError(
            f"it ends the program when it is imported: {_say(exc)}", line=_line(exc, file)
        ) from None
    except BaseException as exc:  # what POP lets through, such as a CancelledError
        raise PluginError(_say(exc), line=_line(exc, file)) from None
    if not isinstance(module, pop.loader.LoadError):
        return module  # type: ignore[no-any-return]
    problem = module.edict["exception"]
    if isinstance(problem, ModuleNotFoundError) and problem.name == module_name.partition(".")[0]:
        raise PluginError(
            "it imports relatively (from . import ...); plugin files import absolutely",
            line=_line(problem, file),
        )
    if isinstance(problem, SyntaxError) and problem.filename == file:
        raise PluginError(f"not valid Python: {problem.msg}", line=problem.lineno or 0)
    raise PluginError(_say(problem), line=_line(problem, file))


def _keep_signatures(module: ModuleType) -> None:
    """Let POP, which reads the signature of every function for every hub, find it made."""
    for function in vars(module).values():
        if not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        # Who asks for the types that texts stand for would get the texts.
        if not any(isinstance(each, str) for each in function.__annotations__.values()):
            function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]


def _check_accepts(module: Any) -> None:
    """Check what a plugin says that it accepts; its ``__init__`` may say so, too."""
    accepts, profile = getattr(module, "ACCT", None), getattr(module, "PROFILE", None)
    listed = isinstance(accepts, (list, tuple)) and all(isinstance(one, str) for one in accepts)
    if accepts is not None and not listed:
        raise PluginError(f"ACCT is a list of the names of providers, and not {accepts!r:.80}")
    if profile is not None and not (isinstance(profile, type) and issubclass(profile, msgspec.Struct)):
        raise PluginError(f"PROFILE is a class deriving msgspec.Struct, and not {profile!r:.80}")


def _check_init(sub: Any, module: ModuleType, owner: str) -> None:
    """A further ``init.py`` joins the first, as POP has it, but it may replace none of its functions."""
    ours = sub._loaded["init"]._funcs
    for name, value in vars(module).items():
        if name in ours and inspect.isfunction(value) and value.__module__ == module.__name__:
            raise PluginError(f"its function {name}() would replace that of {owner}; give it another name")


def _check_sub_virtual(sub: Any, module: ModuleType, off: dict[Path, Exception]) -> None:
    """Ask ``__sub_virtual__`` of a further ``init.py``: in POP it switches off all packages' folders."""
    answer = getattr(module, "__sub_virtual__", None)
    if answer is None:
        return
    file = str(module.__file__)
    try:
        said = answer(sub._hub)
    except Exception as exc:
        failed = f"__sub_virtual__ of {file}: __sub_virtual__ failed: {_say(exc)}"
        off[Path(file).parent] = PluginError(failed, line=_line(exc, file))
    else:
        works, why = said if isinstance(said, tuple) and len(said) == 2 else (said, "")
        if works is True:
            return
        reason = f"__sub_virtual__ of {file}: {str(why) or 'it gives no reason'}"
        off[Path(file).parent] = _DisabledError(reason)
    raise off[Path(file).parent]


def _put_on_sub(sub: Any, bname: str, name: str) -> None:
    """Let POP do the rest: ``__virtual__``, contracts, ``__init__``."""
    file = sub._scan["python"][bname]["path"]
    sub._load_errors.pop(name, None)
    if sub._scan["python"][bname].get("loaded"):
        return
    try:
        sub._load_item("python", bname)
    except pop.exc.ContractSigException as exc:
        raise PluginError(_contract_reason(str(exc))) from None
    except KeyboardInterrupt:
        raise
    except BaseException as exc:
        where = "__init__" if name in sub._loaded else "loading"
        raise PluginError(f"{where} failed: {_say(exc)}", line=_line(exc, file)) from None
    if name in sub._loaded:
        return
    failure = sub._load_errors.get(name)
    if failure is None:
        raise _DisabledError("POP did not load it: the subsystem is switched off by __sub_virtual__")
    edict = failure.edict
    if edict["exception"] is not None:
        raise PluginError(
            f"__virtual__ failed: {_say(edict['exception'])}", line=_line(edict["exception"], file)
        )
    reason = edict["verror"]
    raise _DisabledError(reason if isinstance(reason, str) else f"__virtual__ returned {reason}")


def _forget(sub: Any, name: str) -> None:
    """Take everything off the sub that POP keeps of a plugin that failed."""
    sub._loaded.pop(name, None)
    for file in [file for file, known in sub._vmap.items() if known == name]:
        del sub._vmap[file]
    if name in sub._cached:
        sub._cached.discard(name)
        delattr(sub, name)


def _drop_broken_contracts(sub: Any, subsystem: str) -> list[Plugin]:
    """Take contract files that cannot be imported out of ``sub`` and return them.

    POP would hold them against every plugin that they are for.
    """
    broken = []
    take_out_doubles(sub)
    for contracts in sub._contract_subs:
        for bname, entry in list(contracts._scan["python"].items()):
            file = entry["path"]
            module_name = name_in_pop(file)
            known = module_name in sys.modules
            try:
                _import(module_name, file)
            except PluginError as exc:
                if not known:
                    sys.modules.pop(module_name, None)
                contracts._scan["python"].pop(bname)
                name = f"contracts.{Path(bname).name}"
                about = {"subsystem": subsystem, "file": file, "reason": exc.reason, "line": exc.line}
                broken.append(Plugin(name, state="broken", **about))
    return broken


@contextlib.contextmanager
def _quiet_pop() -> Iterator[None]:
    """Keep POP from logging a traceback for each broken file: the bus says it in one line."""
    logger = logging.getLogger("pop.hub")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def module_of(file: str) -> ModuleType:
    """Return the module of a plugin file that is loaded."""
    return sys.modules[name_in_pop(file)]


def name_in_pop(file: str) -> str:
    """Return the name of the module that POP makes of a plugin file (pop.hub.Sub._load_item)."""
    dotted = file.replace(os.sep, ".")
    return dotted[dotted.index(".") + 1 : dotted.rindex(".")].strip(".")


def _say(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def _line(exc: BaseException, file: str) -> int:
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == file]
    return lines[-1] if lines else 0


def _contract_reason(text: str) -> str:
    missing = re.search(r"Function '(\w+)' is missing", text)
    if missing:
        return f"it has no function {missing[1]}(); contracts/init.py of its folder shows what it looks like"
    lines = [line for line in text.splitlines() if line and not line.startswith(("Signature", "Enforcing"))]
    return "; ".join(lines) or text
