"""A hub with the pipeline alone, as each test of a plugin wants it."""

from __future__ import annotations

from typing import Any

import pop.hub
import pytest


@pytest.fixture
def room() -> Any:
    """Return a hub with this room alone."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="pipeline", pypath="evbus.pipeline")
    return hub
