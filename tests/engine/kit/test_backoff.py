"""How long is waited before something is tried again."""

from __future__ import annotations

import random
from typing import Any

import pytest

from evbus.engine.kit.backoff import backoff


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 0.1), (2, 0.2), (3, 0.4), (9, 25.6), (10, 30), (5000, 30)]
)
def test_the_pause_is_any_part_of_a_bound_that_doubles_up_to_the_largest(
    failures: int, bound: float, monkeypatch: Any
) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: asked.append((low, high)) or high)
    assert backoff(failures, 0.1, 30.0) == pytest.approx(bound)
    assert asked == [(0, pytest.approx(bound))]


def test_pauses_are_spread_over_the_whole_bound() -> None:
    pauses = [backoff(3, 1.0, 30.0) for _ in range(2000)]
    assert 0 <= min(pauses) < 0.2
    assert 3.8 < max(pauses) <= 4.0
