"""The house rules that the source itself can show: what imports what, and what is never used."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("imports")  # one process reads the files

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "evbus"
FILES = sorted(PACKAGE.rglob("*.py"))

# From top to bottom; a file may import from its own row's folder and from rows below it.
ROOMS = {
    "channel",
    "command",
    "component",
    "connection",
    "dispatch",
    "egress",
    "evbus",
    "event",
    "handler",
    "health",
    "ingress",
    "listener",
    "log",
    "match",
    "pipeline",
    "registry",
    "serialize",
    "service",
}
ROWS = [
    {"__main__", "_pytest"},
    {"api", "scripts", "testing"},
    {"_program"},
    ROOMS,
    {"engine/web"},
    {"engine/cli", "engine/client", "engine/describe"},
    {"engine/service"},
    {"engine/call"},
    {"engine/handling/events"},
    {"engine/handling/dispatch"},
    {"engine/handling"},
    {"engine/core/lifecycle"},
    {"engine/core/dead", "engine/core/intake", "engine/core/plugins"},
    {"engine/core/lane"},
    {"engine/core"},
    {"engine/wire/file", "engine/wire/http", "engine/wire/memory", "engine/wire/stomp"},
    {"engine/wire/amqp"},
    {"engine/wire/amqp1"},
    {"engine/wire/base"},
    {"engine/stages"},
    {"engine/codec"},
    {""},  # engine/kit, and the plain modules beside the rooms: types, errors, session, ...
]
TOP = {
    "__main__",
    "_program",
    "_pytest",
    "api",
    "scripts",
}  # files beside the rooms that are no plain modules
LEVEL = {place: len(ROWS) - index for index, row in enumerate(ROWS) for place in row}

# Engines know no hub. These are about POP's own objects, and nothing else imports them but init files:
# load.py guards POP's loader against broken plugin files, face.py steps over POP's function wrapper.
# installed.py reads what POP looks for in installed packages, before it does, and so makes hubs.
MAY_IMPORT_POP = {f"evbus/engine/core/plugins/{name}.py" for name in ("load", "face", "installed")}
# The ways in from outside make the hub that everything else is handed.
MAKES_A_HUB = {"evbus/api.py", "evbus/_program.py", "evbus/testing/__init__.py"}

NEVER = re.compile(r"\b(c?pickle|marshal|shelve|dill|jsonpickle)\b", re.IGNORECASE)
UNSAFE_YAML = re.compile(r"\byaml\.(load|load_all|(unsafe|full)_load\w*|(Unsafe|Full)?Loader)\b")
STATE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def place(path: Path) -> str:
    """Return where a file stands: its room, its folder among the engines, or nothing for a plain module."""
    parts = path.relative_to(PACKAGE).parts
    if parts[:2] == ("engine", "kit"):
        return ""  # small tools, on one floor with types and errors
    if parts[0] == "engine":
        return "/".join(parts[:-1])
    if len(parts) > 1:
        return parts[0]
    return path.stem if path.stem in TOP else ""


def is_plugin(path: Path) -> bool:
    """Tell whether POP loads the file: it lies in a room and its name does not begin with ``_``."""
    return path.relative_to(PACKAGE).parts[0] in ROOMS and not path.name.startswith("_")


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return what a file holds; nobody changes it."""
    return ast.parse(path.read_text(), path)


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Return every imported module as an absolute name, also from inside functions."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                # `from package import x` may mean the module package.x
                inner = f"{module}.{alias.name}"
                yield inner if _exists(inner) else module


def _exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def own(path: Path) -> Iterator[Path]:
    """Yield the files of this package that the file imports."""
    for module in imports(path):
        if module.split(".")[0] == "evbus":
            target = ROOT.joinpath(*module.split("."))
            yield target / "__init__.py" if target.is_dir() else target.with_suffix(".py")


PLUGINS = [path for path in FILES if is_plugin(path)]
ENGINES = [path for path in FILES if not is_plugin(path) and name(path) not in MAY_IMPORT_POP | MAKES_A_HUB]
every_file = pytest.mark.parametrize("path", FILES, ids=name)


@every_file
def test_arrows_between_folders_run_downwards(path: Path) -> None:
    wrong = [
        name(target)
        for target in own(path)
        if place(target) != place(path) and LEVEL[place(target)] >= LEVEL[place(path)]
    ]
    assert not wrong, f"{name(path)} imports {wrong}, which lie beside or above it"


def test_no_files_import_each_other_in_a_circle() -> None:
    waiting = {path: set(own(path)) - {path} for path in FILES}
    while ready := {path for path, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {path: needs for path, needs in waiting.items() if path not in ready}
    assert not waiting, f"a circle goes through {sorted(map(name, waiting))}"


def test_rooms_hold_plugins_and_nothing_else() -> None:
    inside = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in ROOMS]
    assert {path.relative_to(PACKAGE).parts[0] for path in inside} == ROOMS
    assert [name(path) for path in inside if not is_plugin(path) and path.name != "__init__.py"] == []


def test_no_class_has_the_name_of_another() -> None:
    # But for twins: what each protocol has of its own, and a bus for programs and one for their tests.
    twins = {"Batch", "Consumer", "Malformed", "Profile", "Publisher", "Requester"}
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name(path))
    twice = {one: where for one, where in places.items() if len(where) > 1}
    assert sorted(twice.pop("SyncBus")) == ["evbus/engine/client/sync_bus.py", "evbus/testing/_sync.py"]
    assert set(twice) <= twins, {one: twice[one] for one in twice.keys() - twins}
    assert all(path.startswith("evbus/engine/wire/") for where in twice.values() for path in where)


@every_file
def test_every_imported_module_of_the_package_exists(path: Path) -> None:
    assert [name(target) for target in own(path) if not target.is_file()] == []


@every_file
def test_a_plugin_is_imported_by_nobody(path: Path) -> None:
    wrong = [name(target) for target in own(path) if is_plugin(target)]
    assert not wrong, f"{name(path)} imports {wrong}: plugins are reached through the hub"


@pytest.mark.parametrize("path", ENGINES, ids=name)
def test_engines_know_no_hub(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & {"pop", "pop_config", "pop_loop"}
    arguments = (node.arg for node in ast.walk(tree(path)) if isinstance(node, ast.arg))
    assert "hub" not in arguments, f"{name(path)} has a function with the argument hub"


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_plugins_define_no_classes_and_hold_no_state(path: Path) -> None:
    body = tree(path).body
    assert [node.name for node in body if isinstance(node, ast.ClassDef)] == []
    for node in body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, STATE):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            # An upper-case name with contents is a constant; what begins empty is there to be filled.
            constant = all(ast.unparse(target).strip("_").isupper() for target in targets)
            special = all(ast.unparse(target).startswith("__") for target in targets)
            filled = ast.unparse(node.value) not in {"[]", "{}"}
            assert special or (constant and filled), f"{name(path)}:{node.lineno}: state belongs on the hub"


def test_every_room_and_contract_folder_is_a_package() -> None:
    # Without __init__.py a folder works from the source tree, and is missing in the wheel.
    folders = {path.parent for path in FILES}
    assert [name(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_conf_holds_literals_only() -> None:
    # POP executes the file bare: whatever fails in it makes the whole package invisible.
    allowed = (ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.UnaryOp, ast.USub, ast.Load)
    types = {"bool", "float", "int", "str"}  # what pop-config takes as the type of an option
    for node in ast.parse((PACKAGE / "conf.py").read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        assert isinstance(node, ast.Assign), f"conf.py:{node.lineno}: only assignments of literals"
        for part in ast.walk(node.value):
            literal = isinstance(part, allowed) or (isinstance(part, ast.Name) and part.id in types)
            assert literal, f"conf.py:{node.lineno}: {ast.unparse(part)} is no literal"


@every_file
def test_nothing_unsafe_decodes_bytes(path: Path) -> None:
    code = _code_of(path)
    assert not UNSAFE_YAML.search(code), f"{name(path)}: yaml.safe_load is the only YAML loader here"
    assert not {module.split(".")[0] for module in imports(path) if NEVER.fullmatch(module.split(".")[0])}
    assert not re.search(r"\b(pickle|marshal)\.\w", code)
    if name(path) == "evbus/engine/core/plugins/installed.py":
        return  # it runs the conf.py of installed packages in POP's place
    assert not re.search(r"(?<![\w.])(eval|exec)\(", code), f"{name(path)}: text from outside is never run"


def _code_of(path: Path) -> str:
    """Return the file without comments and strings, so that texts may name what is forbidden."""
    code = ast.parse(path.read_text())
    for node in ast.walk(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(code)


@every_file
def test_only_syntax_of_the_oldest_supported_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 11))
