"""A dispatcher, and a handler that waits."""

from __future__ import annotations

import pytest

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from tests.dispatch.rig import Gate


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher()


@pytest.fixture
def gate() -> Gate:
    return Gate()
