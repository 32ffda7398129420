"""Events that reach no queue while queues may be about to come back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.publish import ComingBack, Unroutable
from evbus.errors import Unavailable
from evbus.types import Envelope


def coming_back(settling: float) -> tuple[Any, ComingBack]:
    connection: Any = SimpleNamespace(settling=settling)
    return connection, ComingBack(connection)


def missed(keys: ComingBack, key: str) -> float:
    """Return for how long an event that reached nothing is to be sent again, 0 when it is not."""
    outcomes: list[Exception | None] = [Unroutable("no queue"), None]
    keys.look([Envelope("p", key, b""), Envelope("p", "another", b"")], outcomes)
    assert outcomes[1] is None
    if isinstance(outcomes[0], Unavailable):
        assert str(outcomes[0]) == "no queue; the queue may be about to come back"
        return outcomes[0].retry_within or 0.0
    assert type(outcomes[0]) is Unroutable
    return 0.0


async def test_each_key_is_waited_for_while_the_connection_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 60)

    connection, keys = coming_back(settling=90.0)
    assert 59 < missed(keys, "a") <= 60
    connection.settling = 30.0
    assert missed(keys, "b") == 30.0
    connection.settling = 0.0
    assert not missed(keys, "b")


async def test_a_key_is_waited_for_only_so_long_however_long_the_connection_settles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    _, keys = coming_back(settling=90.0)
    monkeypatch.setattr(supervisor, "SETTLING", 60)
    before = missed(keys, "a")
    assert missed(keys, "a") <= before
    monkeypatch.setattr(supervisor, "SETTLING", 0)
    assert not missed(keys, "a")


@pytest.mark.parametrize("how", ["an event of it arrives", "the connection is another one"])
async def test_the_time_of_a_key_begins_anew(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 60)

    _, keys = coming_back(settling=90.0)
    missed(keys, "a")
    first = keys._first["a"]
    if how == "an event of it arrives":
        keys.look([Envelope("p", "a", b"")], [None])
    else:
        keys.clear()
    assert 59 < missed(keys, "a") <= 60
    assert keys._first["a"] > first
