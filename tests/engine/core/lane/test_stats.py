"""The numbers of a lane."""

from __future__ import annotations

import pytest

from evbus.engine.core.lane.stats import PER_BATCH, SAMPLES, Counters, Latency
from evbus.types import Envelope


def events(*accepted: float) -> list[Envelope]:
    return [Envelope("p", accepted_at=at) for at in accepted]


def test_there_are_no_percentiles_before_the_first_delivery() -> None:
    assert Latency().percentiles() == {}


def test_percentiles_are_those_of_the_samples() -> None:
    latency = Latency()
    for at in range(100):
        latency.sample(events(float(at)), 100.0)
    found = latency.percentiles()
    assert found == {"p50": pytest.approx(51, abs=1), "p90": 90.0, "p99": 99.0, "max": 100.0}


@pytest.mark.parametrize("count", [1, 7, 8, 9, 500, 10_000])
def test_a_batch_gives_few_samples_whatever_its_size(count: int) -> None:
    latency = Latency()
    latency.sample(events(*([1.0] * count)), 3.0)
    assert 1 <= len(latency._samples) <= PER_BATCH
    assert latency.percentiles()["max"] == 2.0


def test_only_the_last_samples_are_kept() -> None:
    latency = Latency()
    latency.sample(events(0.0), 1000.0)
    for _ in range(SAMPLES):
        latency.sample(events(0.0), 1.0)
    assert latency.percentiles()["max"] == 1.0


def test_every_counter_starts_at_zero_and_has_a_name() -> None:
    assert Counters().as_dict() == dict.fromkeys(Counters.__slots__, 0)
