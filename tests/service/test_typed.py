"""Proxies are of their interfaces to mypy and to pyright, which look at ``tests/typed/services.py``."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TYPED = ROOT / "tests" / "typed" / "services.py"


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy comes with `make lint`")
def test_mypy_sees_the_interface(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), str(TYPED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright comes with `make lint`")
def test_pyright_sees_the_interface(tmp_path: Path) -> None:
    # Other paths than those below the folder of the settings it leaves out, and has no errors then.
    shutil.copy(TYPED, tmp_path)
    settings = {
        "extraPaths": [str(ROOT)],
        "enableTypeIgnoreComments": False,  # those are for mypy
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    command += ["--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1, done.stdout
    assert (done.returncode, found["generalDiagnostics"]) == (0, [])
