"""The reliability bars of AMQP, short: what ``python -m tests.chaos`` runs in full.

The times among the bars are left to those full runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos._run import Run
from tests.chaos.runs.bridge import bridge
from tests.chaos.runs.cancellations import bar_17
from tests.chaos.runs.kills import bars_1_and_3
from tests.chaos.runs.neighbours import bar_14
from tests.chaos.runs.pauses import bar_9, bar_10, bar_11
from tests.chaos.runs.refusals import bar_12, bar_13
from tests.chaos.runs.restarts import bar_24
from tests.chaos.runs.slow import bar_26
from tests.chaos.runs.survival import survival
from tests.chaos.runs.threads import bar_16
from tests.servers._rabbitmq import RabbitMQ

Bar = Callable[..., dict[str, Any]]


@pytest.fixture
def bar(broken_rabbitmq: RabbitMQ, tmp_path: Path) -> Bar:
    """Return ``bar(run, **sizes)``, which fails when the run missed its bar, and returns its figures."""

    def check(run: Callable[..., Run], **sizes: Any) -> dict[str, Any]:
        found = run(broken_rabbitmq, tmp_path / "program", **sizes)
        assert not found.missed, found.line()
        return found.figures

    return check


def test_nothing_is_lost_when_the_broker_is_killed(bar: Bar) -> None:
    bar(bars_1_and_3, events=3_000, kills=1)


def test_everything_is_delivered_after_the_broker_stood_still(bar: Bar) -> None:
    assert bar(bar_9, seconds=2.5, heartbeat=1.0)["connections_lost"] == 1


def test_publishes_that_time_out_under_an_alarm_are_delivered_once(bar: Bar) -> None:
    figures = bar(bar_10, seconds=0.2, timeout=0.2)
    assert figures["delivered_meanwhile"] == 0
    assert figures["duplicates"] == 0


def test_nothing_is_lost_in_partitions_and_half_open_connections(bar: Bar) -> None:
    bar(bar_11, short=0.3, long=0.0, heartbeat=1.0, usual=1.0)


def test_what_is_refused_is_parked_and_other_routes_go_on(bar: Bar) -> None:
    bar(bar_12, events=200)


def test_a_poison_dies_at_once_and_the_others_arrive(bar: Bar) -> None:
    bar(bar_13, events=100)


def test_a_destination_that_is_down_keeps_its_events_and_holds_up_nobody(bar: Bar) -> None:
    bar(bar_14, seconds=0.5, before=0.1)


def test_events_from_threads_keep_the_order_of_each_thread(bar: Bar) -> None:
    bar(bar_16, events=500, wakes=10, pause=0.001)


def test_a_cancelled_publish_is_acked_or_still_queued(bar: Bar) -> None:
    bar(bar_17, cancellations=100, stops=1)


def test_events_wait_for_the_queue_of_a_listener_on_the_same_bus(bar: Bar) -> None:
    bar(bar_24, restarts=1, after=4.0)


def test_the_end_of_a_file_is_no_stop_and_listeners_that_fail_show_in_the_exit_code(bar: Bar) -> None:
    bar(bar_26, events=60, failing=20)


def test_a_lane_survives_what_an_operator_does(bar: Bar) -> None:
    accidents = "permissions_revoked,connection_closed,exchange_deleted,queue_deleted"
    figures = bar(survival, events=200, heartbeat=1.0, only=accidents)
    assert figures["dead"] == 0


def test_a_bridge_loses_and_reorders_nothing_when_it_or_the_broker_is_killed(bar: Bar) -> None:
    bar(bridge, events=600, broker_kills=1, bridge_kills=1)
