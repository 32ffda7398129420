"""Health: what checks say, all at once, each at most once at a time, and the worst of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evbus.engine.service.health import (
    Health,
    HealthCheckManager,
    HealthStatus,
    Result,
    endpoint_of,
    has_checks,
    health,
    health_check,
    health_checks,
    of_bus,
)
from evbus.errors import ServiceSignatureError


@asynccontextmanager
async def managed(*checks: Any, limit: float = 10.0) -> AsyncIterator[HealthCheckManager]:
    manager = HealthCheckManager(limit=limit)
    for one in checks:
        manager.add(one)
    try:
        yield manager
    finally:
        await manager.close()


def checks(**methods: Any) -> Any:
    """Return an object of a class with these checks."""
    return health_checks()(type("Checks", (), methods))()


def said(status: HealthStatus, details: str = "") -> Any:
    async def check(self: Any, result: Result) -> None:
        result.set_status(status, details)

    return health_check()(check)


async def test_the_worst_counts() -> None:
    ok, warning, error = said(HealthStatus.OK), said(HealthStatus.WARNING, "full"), said(HealthStatus.ERROR)
    for methods, worst in (
        ({"a": ok}, HealthStatus.OK),
        ({"a": ok, "b": warning}, HealthStatus.WARNING),
        ({"a": error, "b": warning, "c": ok}, HealthStatus.ERROR),
    ):
        async with managed(checks(**methods)) as manager:
            assert (await manager.check()).status is worst


async def test_nothing_is_well() -> None:
    async with managed() as manager:
        assert (await manager.check()).to_dict() == {"status": "OK", "checks": []}


def test_the_codes_of_http() -> None:
    assert [status.code for status in HealthStatus] == [200, 429, 500]


async def test_what_is_told() -> None:
    @health_checks()
    class Checks:
        @health_check()
        async def plain(self, result: Result) -> None: ...

        @health_check(name="disk")
        def full(self, result: HealthCheckManager.Result) -> None:
            result.set_status(HealthStatus.WARNING, "97 % used")

    async with managed(Checks()) as manager:
        told = await manager.check()
    assert told.to_dict() == {
        "status": "WARNING",
        "checks": [
            {"name": "plain", "status": "OK"},
            {"name": "disk", "status": "WARNING", "details": "97 % used"},
        ],
    }
    assert told.to_dict(details=False) == {"status": "WARNING"}
    assert repr(told) == "<Health WARNING of 2>"
    assert repr(told.results[1]) == "<Result disk WARNING>"


async def test_checks_run_at_once() -> None:
    both = threading.Barrier(2)
    waiting = asyncio.Event()

    @health_checks()
    class Checks:
        @health_check()
        def one(self, result: Result) -> None:
            both.wait(timeout=30)

        @health_check()
        def other(self, result: Result) -> None:
            both.wait(timeout=30)

        @health_check()
        async def third(self, result: Result) -> None:
            await waiting.wait()

        @health_check()
        async def fourth(self, result: Result) -> None:
            waiting.set()

    async with managed(Checks()) as manager:
        assert (await manager.check()).status is HealthStatus.OK


async def test_a_check_that_raises_is_an_error_with_its_text(caplog: pytest.LogCaptureFixture) -> None:
    @health_checks()
    class Checks:
        @health_check()
        async def down(self, result: Result) -> None:
            raise ConnectionError("no route\nto postgres://app:secret-word@db/")

        @health_check()
        def silent(self, result: Result) -> None:
            raise TimeoutError

        @health_check()
        def wrong(self, result: Any) -> None:
            result.set_status("OK")

    with caplog.at_level(logging.INFO, "evbus.health"):
        async with managed(Checks()) as manager:
            told = await manager.check()
            await manager.check()
    assert told.status is HealthStatus.ERROR
    assert [one.details for one in told.results] == [
        "ConnectionError: no route\\nto postgres://app:***@db/",
        "TimeoutError",
        "TypeError: a status is one of HealthStatus, and not 'OK'",
    ]
    # Once, and not with every request.
    assert len(caplog.messages) == 3
    assert "Traceback" not in caplog.text


async def test_a_check_that_is_well_again_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    states = [HealthStatus.ERROR, HealthStatus.ERROR, HealthStatus.OK]

    @health_checks()
    class Checks:
        @health_check()
        async def disk(self, result: Result) -> None:
            result.set_status(states.pop(0), "full" if states else "")

    with caplog.at_level(logging.INFO, "evbus.health"):
        async with managed(Checks()) as manager:
            for _ in range(3):
                await manager.check()
    assert [text.strip() for text in caplog.messages] == [
        "the health check disk: ERROR full",
        "the health check disk: OK",
    ]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_what_is_slower_is_an_error(asynchronous: bool) -> None:
    released = threading.Event()

    async def waits(self: Any, result: Result) -> None:
        await asyncio.Event().wait()

    def blocks(self: Any, result: Result) -> None:
        released.wait(60)
        result.set_status(HealthStatus.OK)

    function = health_check(name="slow", fail_if_slower_than=0.01)(waits if asynchronous else blocks)
    async with managed(checks(slow=function)) as manager:
        told = await manager.check()
        released.set()
    assert told.to_dict()["checks"] == [
        {"name": "slow", "status": "ERROR", "details": "not done after 0.01 s"}
    ]


async def test_a_check_without_a_limit_holds_nobody_up_for_ever() -> None:
    free, runs = asyncio.Event(), []

    @health_checks()
    class Checks:
        @health_check()
        async def hanging(self, result: Result) -> None:
            runs.append(1)
            await free.wait()

        @health_check()
        async def other(self, result: Result) -> None: ...

    async with managed(Checks(), limit=0.01) as manager:
        for _ in range(3):
            told = await manager.check()
            assert [str(one.status) for one in told.results] == ["ERROR", "OK"]
            assert told.results[0].details == "not done after 0.01 s"
        # It is still the first run that they wait for.
        assert runs == [1]
        free.set()


@pytest.mark.parametrize("cache", [0, 60])
async def test_however_many_ask_it_runs_once(cache: float) -> None:
    runs, begun, free = [], asyncio.Event(), asyncio.Event()

    @health_checks()
    class Checks:
        @health_check(cache=cache)
        async def once(self, result: Result) -> None:
            runs.append(1)
            begun.set()
            await free.wait()
            result.set_status(HealthStatus.WARNING)

    async with managed(Checks()) as manager:
        asking = [asyncio.ensure_future(manager.check()) for _ in range(20)]
        await begun.wait()
        # One that is cancelled takes nothing from the others.
        asking.pop().cancel()
        free.set()
        told = await asyncio.gather(*asking)
        # None of them sees a result that is not there yet.
        assert {one.status for one in told} == {HealthStatus.WARNING}
        assert runs == [1]
        await manager.check()
        assert runs == ([1] if cache else [1, 1])


async def test_failures_are_kept_as_long_as_others() -> None:
    runs = []

    @health_checks()
    class Checks:
        @health_check(cache=60)
        def fails(self, result: Result) -> None:
            runs.append(1)
            raise OSError

    async with managed(Checks()) as manager:
        for _ in range(5):
            assert (await manager.check()).status is HealthStatus.ERROR
    assert runs == [1]


async def test_what_was_given_up_is_not_heard_later() -> None:
    given: list[Result] = []

    @health_checks()
    class Checks:
        @health_check(cache=60, fail_if_slower_than=0.01)
        async def late(self, result: Result) -> None:
            given.append(result)
            await asyncio.Event().wait()

    async with managed(Checks()) as manager:
        told = await manager.check()
        # As a thread would that goes on.
        given[0].set_status(HealthStatus.OK, "late")
        assert told.results[0].details == "not done after 0.01 s"
        assert (await manager.check()).results[0].details == "not done after 0.01 s"


async def test_a_check_that_cannot_be_cancelled_holds_up_no_end() -> None:
    free, cancelled = asyncio.Event(), asyncio.Event()

    @health_checks()
    class Checks:
        @health_check()
        async def stubborn(self, result: Result) -> None:
            try:
                await free.wait()
            except asyncio.CancelledError:
                cancelled.set()
                await free.wait()

    manager = HealthCheckManager(limit=0.01)
    manager.add(Checks())
    await manager.check()
    await manager.close(0.01)
    assert cancelled.is_set()
    free.set()


async def test_who_stops_is_red() -> None:
    async with managed() as manager:
        manager.stopping = "it is being stopped"
        told = await manager.check()
    assert told.to_dict() == {
        "status": "ERROR",
        "checks": [{"name": "server", "status": "ERROR", "details": "it is being stopped"}],
    }


async def test_two_checks_of_one_name_are_both_told() -> None:
    one, other = checks(disk=said(HealthStatus.OK)), checks(disk=said(HealthStatus.WARNING))
    async with managed(one, other) as manager:
        told = await manager.check()
    assert [one.name for one in told.results] == ["check", "check#2"]


def test_checks_of_classes_above_are_its_own() -> None:
    class Above:
        @health_check()
        def above(self, result: Result) -> None: ...

    @health_checks()
    class Below(Above):
        @health_check()
        def below(self, result: Result) -> None: ...

    manager = HealthCheckManager()
    manager.add(Below())
    assert repr(manager) == "<HealthCheckManager of above, below>"
    assert has_checks(Below)
    assert not has_checks(Above)
    assert not has_checks(type("Further", (Below,), {}))


def test_health_by_hand() -> None:
    assert Health(HealthStatus.WARNING).to_dict() == {"status": "WARNING", "checks": []}
    result = HealthCheckManager.Result("one")
    result.set_status(HealthStatus.ERROR)
    assert HealthCheckManager.Health(results=[result]).status is HealthStatus.ERROR


def test_the_path_of_a_component() -> None:
    @health("/shop-health")
    class Component: ...

    assert endpoint_of(Component) == endpoint_of(Component()) == "/shop-health"
    assert endpoint_of(object()) == ""


def without_result(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda: health("health"), "write @health(\"/path\"), with a path, and not 'health'"),
        (
            lambda: health_checks()(type("Nothing", (), {})),
            "@health_checks() stands on a class with methods that have @health_check(), not <class",
        ),
        (lambda: health_check(without_result), "write @health_check() with its brackets"),  # type: ignore[arg-type]
        (
            lambda: health_check()(without_result),
            "without_result is a health check, and takes the result and no more",
        ),
        (lambda: health_check(cache=-1), "@health_check: cache is a number of seconds, and not -1"),
        (
            lambda: health_check(fail_if_slower_than="1"),  # type: ignore[arg-type]
            "@health_check: fail_if_slower_than is a number of seconds, and not '1'",
        ),
    ],
)
def test_what_is_declared_wrongly(declare: Callable[[], Any], text: str) -> None:
    with pytest.raises(ServiceSignatureError) as caught:
        declare()
    assert str(caught.value).startswith(text)


SNAPSHOT: dict[str, Any] = {
    "state": "running",
    "connections": {"amqp.default": {"state": "up", "last_error": ""}},
    "lanes": {"amqp.amqp.default": {"state": "running", "last_error": "an old one"}},
    "dead_store": {"last_error": ""},
}


@pytest.mark.parametrize(
    ("change", "status", "details"),
    [
        ({}, HealthStatus.OK, ""),
        ({"state": "stopped"}, HealthStatus.ERROR, "the bus is stopped"),
        ({"state": "new"}, HealthStatus.OK, "the bus is not started"),
        (
            {"connections": {"amqp.default": {"state": "down", "last_error": "refused"}}},
            HealthStatus.WARNING,
            "the connection amqp.default is down: refused",
        ),
        (
            {
                "lanes": {"x.y.z": {"state": "waiting", "last_error": "503"}},
                "dead_store": {"last_error": "full"},
            },
            HealthStatus.WARNING,
            "the lane x.y.z waits for its destination: 503; the dead store: full",
        ),
    ],
)
def test_how_a_bus_is(change: Any, status: HealthStatus, details: str) -> None:
    result = Result("bus")
    of_bus({**SNAPSHOT, **change}, result)
    assert (result.status, result.details) == (status, details)


async def test_the_bus_of_a_hub(hub: Any) -> None:
    result = Result("bus")
    of_bus(hub.evbus.stats.snapshot(), result)
    assert result.details == "the bus is not started"
