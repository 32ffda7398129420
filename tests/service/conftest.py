"""The fixtures ``channel`` and ``at``: tests run over each channel that can what they are about."""

from __future__ import annotations

import pytest

from tests.service.table import CHANNELS


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "able(*features): the channels that can all of these")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "channel" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("able")
        wanted = set(marker.args) if marker else set()
        metafunc.parametrize("channel", [one for one in CHANNELS if one.can >= wanted], ids=str)
