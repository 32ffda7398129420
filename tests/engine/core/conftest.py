"""A bus on destinations that do what a test tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evbus.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Return a bus that waits long enough for what it has to deliver."""
    return Rig(tmp_path)
