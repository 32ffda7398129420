"""The logging handler, without POP."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

import pytest

from evbus.engine.core.log_handler import BusHandler, Putter, check_options
from evbus.errors import BusForked, BusFull, SettingsError
from tests.evbus.rig import failure


def apart(name: str) -> logging.Logger:
    """Return a logger that no other test can find."""
    return logging.Logger(name, level=1)  # noqa: LOG001


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def logger(events: list[dict[str, Any]]) -> Any:
    """Return a logger whose records become events."""
    logger = apart("app.part")
    logger.addHandler(
        BusHandler(Putter(lambda **event: events.append(event)), logging.Formatter(datefmt="%Y"))
    )
    return logger


def test_a_record_becomes_an_event(logger: Any, events: list[dict[str, Any]]) -> None:
    logger.warning("hello %s", "world")
    (event,) = events
    assert set(event) == {"routing_key", "profile", "body"}
    assert (event["routing_key"], event["profile"]) == ("log", "logger")
    assert set(event["body"]) == {"message", "module", "level", "timestamp", "logger", "time"}
    assert (event["body"]["message"], event["body"]["module"]) == ("hello world", "test_log_handler")
    assert (event["body"]["level"], event["body"]["logger"]) == ("WARNING", "app.part")
    assert len(event["body"]["timestamp"]) == 4


def test_the_time_is_utc_with_its_offset(events: list[dict[str, Any]]) -> None:
    record = logging.makeLogRecord({"name": "app", "msg": "x", "created": 1_700_000_000.25})
    BusHandler(Putter(lambda **event: events.append(event)), logging.Formatter()).handle(record)
    assert events[0]["body"]["time"] == "2023-11-14T22:13:20.250000+00:00"


@pytest.mark.parametrize(
    ("template", "key"),
    [("log.{level}", "log.warning"), ("{logger}/{module}", "app.part/test_log_handler"), ("{{x}}", "{{x}}")],
)
def test_the_routing_key_is_a_template(template: str, key: str, events: list[dict[str, Any]]) -> None:
    logger = apart("app.part")
    putter = Putter(lambda **event: events.append(event), routing_key=template)
    logger.addHandler(BusHandler(putter, logging.Formatter()))
    logger.warning("x")
    assert events[0]["routing_key"] == key


def test_extra_attributes_are_kept_as_plain_values(logger: Any, events: list[dict[str, Any]]) -> None:
    loop: list[Any] = []
    loop.append(loop)
    extra = {
        "tenant": "acme",
        "size": 3,
        "share": 0.5,
        "ok": True,
        "none": None,
        "nested": {1: ["a", {"b": os.fsdecode(b"\xff")}]},
        "other": ValueError("no"),
        "nan": float("nan"),
        "huge": 1 << 80,
    }
    logger.warning("x", extra=extra)
    logger.warning("y", extra={"loop": loop})
    assert events[0]["body"]["extra"] == {
        **extra,
        "nested": {"1": ["a", {"b": "\\udcff"}]},
        "other": "no",
        "nan": "nan",
        "huge": str(1 << 80),
    }
    assert "[...]" in str(events[1]["body"]["extra"])


def test_profile_and_routing_key_are_options() -> None:
    events: list[dict[str, Any]] = []
    putter = Putter(lambda **event: events.append(event), profile="p", routing_key="k")
    logger = apart("app")
    logger.addHandler(BusHandler(putter, logging.Formatter()))
    logger.error("x")
    assert (events[0]["profile"], events[0]["routing_key"]) == ("p", "k")


def test_the_traceback_is_part_of_the_message(logger: Any, events: list[dict[str, Any]]) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("it failed")
    message = events[0]["body"]["message"]
    assert message.startswith("it failed\nTraceback (most recent call last):")
    assert message.endswith("ValueError: no")
    assert message == f"it failed\n{events[0]['body']['exception']}"


def test_the_record_that_other_handlers_get_stays_as_it_was(logger: Any) -> None:
    seen: list[logging.LogRecord] = []

    class After(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger.addHandler(After())
    logger.info("a %s", 1)
    assert (seen[0].msg, seen[0].args) == ("a %s", (1,))
    assert not hasattr(seen[0], "asctime")


@pytest.mark.parametrize("name", ["evbus", "evbus.lane", "evbus.ingress.file"])
def test_records_of_evbus_itself_are_left_out(events: list[dict[str, Any]], name: str) -> None:
    logger = apart(name)
    logger.addHandler(BusHandler(Putter(lambda **event: events.append(event)), logging.Formatter()))
    logger.error("lane x: publishing fails")
    assert events == []


def test_a_name_that_only_begins_like_ours_is_somebody_elses(events: list[dict[str, Any]]) -> None:
    logger = apart("evbusiness")
    logger.addHandler(BusHandler(Putter(lambda **event: events.append(event)), logging.Formatter()))
    logger.error("x")
    assert len(events) == 1


def test_a_full_bus_costs_the_event_and_never_fails_the_caller() -> None:
    def put_nowait(**event: Any) -> None:
        raise BusFull(1, 1, 0, 0)

    putter = Putter(put_nowait)
    logger = apart("app")
    logger.addHandler(BusHandler(putter, logging.Formatter()))
    logger.error("x")
    logger.error("y")
    assert putter.lost == 2


def test_text_that_utf8_cannot_carry_is_escaped(logger: Any, events: list[dict[str, Any]]) -> None:
    logger.error("file %s", os.fsdecode(b"\xff"))
    assert events[0]["body"]["message"] == "file \\udcff"


def test_a_record_with_wrong_arguments_is_told_as_logging_does(
    logger: Any, events: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    logger.error("%d", "x")
    assert events == []
    assert "--- Logging error ---" in capsys.readouterr().err


def test_putting_holds_no_lock_of_the_handler() -> None:
    """A thread that logs and one that loads plugins, and logs meanwhile, would wait for each other."""
    inside, done = threading.Event(), threading.Event()

    def put_nowait(**event: Any) -> None:
        if event["body"]["message"] == "first":
            inside.set()
            assert done.wait(20)

    logger = apart("app")
    logger.addHandler(BusHandler(Putter(put_nowait), logging.Formatter()))
    thread = threading.Thread(target=logger.error, args=("first",))
    thread.start()
    assert inside.wait(20)
    logger.error("second")
    done.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"profil": "x"}, "log_handler_options: there is no option 'profil'; did you mean 'profile'?"),
        ({"zzz": "x"}, "log_handler_options: there is no option 'zzz'; known: profile, routing_key"),
        ({"profile": 5}, "log_handler_options: profile is a string, not 5"),
        (
            {"routing_key": "{levle}"},
            "log_handler_options: routing_key '{levle}': there is no field 'levle'; did you mean 'level'?",
        ),
        (
            {"routing_key": "log.{level:>9}"},
            "log_handler_options: routing_key 'log.{level:>9}': write {level}, without a format",
        ),
        (
            {"routing_key": "log.{level"},
            "log_handler_options: routing_key 'log.{level': expected '}' before end of string",
        ),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], sentence: str) -> None:
    assert failure(SettingsError, check_options, options) == sentence


def test_both_options_are_taken() -> None:
    check_options({"profile": "p", "routing_key": "k"})


def test_in_the_child_of_a_fork_the_handler_says_once_that_records_go_nowhere() -> None:
    def put(**_event: Any) -> None:
        raise BusForked

    putter, handled = Putter(put), list[BaseException | None]()
    handler = BusHandler(putter, logging.Formatter())
    handler.handleError = lambda _record: handled.append(sys.exc_info()[1])  # type: ignore[method-assign]
    logger = apart("app")
    logger.addHandler(handler)
    for _ in range(3):
        logger.error("x")
    assert [type(problem) for problem in handled] == [BusForked]
    assert putter.lost == 3
