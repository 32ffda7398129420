"""Names that must not stand twice."""

from __future__ import annotations

from evbus.engine.kit.names import unique


def test_a_name_that_is_taken_gets_the_first_number_that_is_free() -> None:
    taken: set[str] = set()
    for _ in range(3):
        taken.add(unique("a", taken))
    assert taken == {"a", "a#2", "a#3"}
    assert unique("b", taken) == "b"
