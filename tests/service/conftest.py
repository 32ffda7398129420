"""The fixtures ``channel`` and ``at``: tests run over each channel that can what they are about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.table import CHANNELS, Channel


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "able(*features): the channels that can all of these")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "channel_at" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("able")
        wanted = set(marker.args) if marker else set()
        able = [one for one in CHANNELS if one.can >= wanted]
        metafunc.parametrize("channel_at", able, ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def channel_at(request: pytest.FixtureRequest) -> tuple[Channel, Any]:
    """Return a channel, and the broker that calls go over, None without one."""
    found: Channel = request.param
    return found, None if found.broker is None else request.getfixturevalue(found.broker[0])


@pytest.fixture
def channel(channel_at: tuple[Channel, Any], unique: str) -> Channel:
    """Return a channel; of one over a broker, with queues of its own."""
    found, node = channel_at
    return found if node is None else found.at(node, unique)
