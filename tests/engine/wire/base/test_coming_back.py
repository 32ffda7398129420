"""Events that reach no queue while queues may be about to come back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.coming_back import ComingBack


def coming_back(settling: float) -> tuple[Any, ComingBack]:
    connection: Any = SimpleNamespace(settling=settling)
    return connection, ComingBack(connection)


async def test_each_key_is_waited_for_while_the_connection_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 60)

    connection, keys = coming_back(settling=90.0)
    assert not keys
    assert 59 < keys.missed("a") <= 60
    connection.settling = 30.0
    assert keys.missed("b") == 30.0
    keys.arrived("a")
    assert keys
    connection.settling = 0.0
    assert not keys.missed("b")
    assert not keys


async def test_a_key_is_waited_for_only_so_long_however_long_the_connection_settles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, keys = coming_back(settling=90.0)
    monkeypatch.setattr(supervisor, "SETTLING", 60)
    assert keys.missed("a")
    monkeypatch.setattr(supervisor, "SETTLING", 0)
    assert not keys.missed("a")
    keys.clear()
    assert not keys
