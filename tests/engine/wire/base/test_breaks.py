"""When to say that what a consumer is to be sent may be what ends its connection."""

from __future__ import annotations

from evbus.engine.wire.base.breaks import Breaks


def test_three_short_lives_with_nothing_settled_are_told_once() -> None:
    breaks = Breaks()
    assert [breaks.count(settled=False, lived=0.1) for _ in range(5)] == [False, False, True, False, False]


def test_what_was_settled_or_lived_begins_anew() -> None:
    breaks = Breaks()
    for settled, lived in ((True, 0.1), (False, 60.0)):
        assert not any(breaks.count(settled=False, lived=0.1) for _ in range(2))
        assert not breaks.count(settled=settled, lived=lived)
    assert [breaks.count(settled=False, lived=0.1) for _ in range(3)] == [False, False, True]
