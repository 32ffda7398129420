"""What waits behind the lanes, and the two marks."""

from __future__ import annotations

from evbus.engine.kit.weight import Weight


def test_it_tells_when_a_mark_is_passed_and_not_before() -> None:
    told: list[str] = []
    weight = Weight()
    weight.on_rise, weight.on_fall = (lambda: told.append("rise")), (lambda: told.append("fall"))
    weight.ceiling, weight.floor = 10, 3
    weight.add(10)
    assert told == []
    weight.add(1)
    assert told == ["rise"]
    weight.take(8)
    assert told == ["rise"]
    weight.take(1)
    assert (told, weight.size) == (["rise", "fall"], 2)


def test_nobody_need_listen() -> None:
    weight = Weight()
    weight.add(5)
    weight.take(5)
    assert weight.size == 0
