"""What a start does not import: counted, since the time that it takes says how busy the machine is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: What is imported when it is first used: other people's packages, what is slow of Python's own, and the
#: engines of what most programs do not use.
LATER = (
    *("aiohttp", "aiormq", "backports.zstd", "opentelemetry", "pamqp", "proton", "pydantic"),
    *("stomp", "uvloop", "yarl", "email", "fractions", "http", "multiprocessing", "unittest", "xml"),
    *("evbus.engine.cli", "evbus.engine.client", "evbus.engine.describe", "evbus.testing"),
    *(f"evbus.engine.stages.{name}" for name in ("compress", "keys", "sign", "trace")),
    *(f"evbus.engine.wire.{name}.publish" for name in ("amqp", "amqp1", "stomp")),
)
MERGE = """
import pop.hub
hub = pop.hub.Hub()
before = set(sys.modules)
hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
print(*sorted(set(sys.modules) - before))
"""
PUT = """
import runpy
sys.argv = ["evbus", "put", "--profiles", "profiles.yml", "--quiet", "--routing-key", "k", "{}"]
before = set(sys.modules)
try:
    runpy.run_module("evbus", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    ("program", "used"), [(MERGE, ()), (PUT, ("evbus.engine.cli",))], ids=["merge", "put"]
)
def test_it_imports_what_it_uses(program: str, used: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "profiles.yml").write_text("file: {default: {path: out.jsonl}}\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){program}"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    imported = done.stdout.split()
    assert "evbus.engine.core.queue" in imported
    later = tuple(name for name in LATER if name not in used)
    assert [name for name in imported if _below(name, later)] == []


def _below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)
