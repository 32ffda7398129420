"""Events that reach no queue while queues may be about to come back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.coming_back import ComingBack


def coming_back(settling: bool) -> tuple[Any, ComingBack]:
    connection: Any = SimpleNamespace(settling=settling)
    return connection, ComingBack(connection)


async def test_each_key_is_waited_for_while_the_connection_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 60)

    connection, keys = coming_back(settling=True)
    assert not keys
    assert keys.missed("a")
    assert keys.missed("b")
    keys.arrived("a")
    assert keys
    connection.settling = False
    assert not keys.missed("b")
    assert not keys


async def test_a_key_is_waited_for_only_so_long_however_long_the_connection_settles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    _, keys = coming_back(settling=True)
    monkeypatch.setattr(supervisor, "SETTLING", 60)
    assert keys.missed("a")
    monkeypatch.setattr(supervisor, "SETTLING", 0)
    assert not keys.missed("a")
    keys.clear()
    assert not keys
