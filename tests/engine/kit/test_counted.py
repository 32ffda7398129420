"""evbus.engine.kit.counted: numbers in sentences."""

from __future__ import annotations

import pytest

from evbus.engine.kit.counted import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 events were"), (1, "1 event was"), (2_000, "2,000 events were")]
)
def test_one_is_told_in_the_singular(count: int, text: str) -> None:
    assert counted(count, "event was", "events were") == text
