from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.cli.output import closing, number, render
from evbus.engine.cli.session import EXIT, Ended, LineProducer, event_line, exit_code, made_up, stop_code
from evbus.engine.core.lifecycle.run import Report
from evbus.errors import BusStopped, ConfigError, InvalidPayload


def _take(line: bytes, *, raw_json: bool) -> dict[str, Any]:
    puts: list[dict[str, Any]] = []

    async def put(**arguments: Any) -> None:
        puts.append(arguments)

    assert asyncio.run(LineProducer(put, max_body=100, raw_json=raw_json).take(line)) == ""
    return puts[0]


@pytest.mark.parametrize("raw_json", [True, False])
@pytest.mark.parametrize(
    ("line", "body", "headers"),
    [
        (b'{"body_base64": "WzFd"}', b"[1]", {"content-type": "application/octet-stream"}),
        (
            b'{"body_base64": "WzFd", "headers": {"content-type": "application/json"}}',
            b"[1]",
            {"content-type": "application/json"},
        ),
        (b'{"body": "x", "headers": {"content-type": "text/plain"}}', b"x", {"content-type": "text/plain"}),
        (b'{"routing_key": "a"}', None, None),
        (b'{"headers": {"a": "b", "content-type": "text/plain"}}', None, {"a": "b"}),
    ],
)
def test_bytes_are_put_as_they_are(line: bytes, body: Any, headers: Any, raw_json: bool) -> None:
    put = _take(line, raw_json=raw_json)
    assert (put["body"], put["headers"]) == (body, headers)


def test_json_is_put_untouched_or_as_a_value_for_another_serializer() -> None:
    line = b'{"body": {"x": 1.00}, "headers": {"a": "b"}}'
    put = _take(line, raw_json=True)
    assert (put["body"], put["headers"]) == (b'{"x": 1.00}', {"a": "b", "content-type": "application/json"})
    put = _take(line, raw_json=False)
    assert (put["body"], put["headers"]) == ({"x": 1.0}, {"a": "b"})


def test_an_event_that_comes_while_the_bus_stops_is_not_called_refused() -> None:
    async def put(**_arguments: Any) -> None:
        raise BusStopped

    intake = LineProducer(put, max_body=0, raw_json=True)
    with pytest.raises(BusStopped):
        asyncio.run(intake.take(b"{}"))
    assert intake.refused == 0


def _end(*, unheard: int = 0, **counters: int) -> Ended:
    lane = dict.fromkeys(("delivered", "dead", "dropped", "queued", "in_flight"), 0)
    bus = dict.fromkeys(("unmatched", "dropped", "queued"), 0)
    lane.update({key: value for key, value in counters.items() if key in lane})
    bus.update({key: value for key, value in counters.items() if key == "unmatched"})
    listeners = {"billing-1": {"dead": unheard}}
    found = {"lanes": {"a.b.c": lane}, "bus": bus, "listeners": listeners}
    return Ended(found, cut_short=False, report=Report({}, "dead.jsonl", 0.1))


def test_exit_codes() -> None:
    assert exit_code(_end(delivered=5)) == EXIT.OK
    assert exit_code(_end(), refused=1) == EXIT.REFUSED
    for lost in ("dead", "dropped", "queued", "in_flight", "unmatched", "unheard"):
        assert exit_code(_end(**{lost: 1}), refused=1) == EXIT.UNDELIVERED
    assert exit_code(_end()._replace(cut_short=True)) == EXIT.STOPPED
    for report in (Report({"listener x": 1}, "", 0), Report({}, "", 0, lost=1)):
        assert exit_code(_end()._replace(report=report)) == EXIT.UNDELIVERED


def test_what_runs_until_it_is_stopped_ends_by_what_its_stop_left() -> None:
    assert stop_code(_end(dead=1, unheard=1)) == EXIT.OK
    assert stop_code(_end()._replace(cut_short=True)) == EXIT.STOPPED
    for report in (Report({"listener x": 1}, "", 0), Report({}, "", 0, lost=1)):
        assert stop_code(_end()._replace(report=report)) == EXIT.UNDELIVERED


def test_a_mistake_in_a_body_is_told_by_its_place_in_the_body() -> None:
    with pytest.raises(InvalidPayload, match="the key 'a' stands twice in one object at line 1 column 8$"):
        event_line({}, '{"a":1,"a":2}')


def test_the_line_of_a_put_keeps_the_body_as_it_was_written() -> None:
    line = event_line({"profile": "p", "routing_key": "k"}, '{\n "a": 1.50, "b": 1e2}')
    assert line.endswith(b'"body":{"a":1.50,"b":1e2}}')
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        event_line({"routing_key": "\udcff"}, "1")


async def test_made_up_events_are_numbered() -> None:
    assert [body["number"] async for body in made_up(600, 0)] == list(range(600))


def test_tables_keep_foreign_text_on_its_line() -> None:
    assert render(["a", "b"], [["1", "x\ny\x1b[2J"], ["10", ""]], right=[0]).splitlines() == [
        " a  b",
        "--  -----------",
        " 1  x\\ny\\x1b[2J",
        "10",
    ]
    assert (number(1234567), number(99.94), number(3)) == ("1,234,567", "99.9", "3")


def test_a_table_without_destinations_says_so() -> None:
    snapshot = {
        "lanes": {},
        "listeners": {},
        "unheard": {"OrderPlacd": 2},
        "bus": {"unmatched": 2, "dropped": 1},
        "dead_store": {"stored": 0, "lost": 0, "path": "", "last_error": ""},
    }
    assert closing(snapshot, 1.0).splitlines() == [
        "no destinations",
        "2 events matched no profile",
        "nobody listened to OrderPlacd: 2 events",
        "1 event was dropped because the bus was full",
    ]
