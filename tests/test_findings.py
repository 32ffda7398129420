"""The scripts in findings: each stands for itself, and says what was seen with which version.

They are not run here: each takes half a minute and a broker of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "findings").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_read_and_needs_nothing_of_evbus(script: Path) -> None:
    assert script.suffix == ".sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    head, _, code = script.read_text().partition("set -euo pipefail\n")
    assert head.startswith("#!/usr/bin/env bash\n# ")
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(r"^# Seen with .*\d+\.\d+\.\d+", head, re.MULTILINE)
    assert "evbus" not in code
    # What is installed is pinned, and what was seen is asserted.
    packages = re.search(r"pip\" .* install (.*)", code)
    assert packages is not None
    assert all("==" in package for package in packages[1].split())
    assert re.search(r"^assert ", code, re.MULTILINE) or "    assert found" in code
