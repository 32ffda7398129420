"""The hub of these tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transports.kit import new_hub


@pytest.fixture
def hub() -> Any:
    """Return a hub with the rooms of transports, and without a bus."""
    return new_hub()
