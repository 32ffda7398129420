"""Listeners made into one thing to call."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.handling.events.declare import EventListener, event_listener
from evbus.engine.handling.events.listener import check, line_of, listens, made, short_name
from evbus.errors import HandlerSignatureError
from tests.evbus.rig import failure, until
from tests.event.kit import WAIT, OrderPlaced, go

HUB = SimpleNamespace(name="the hub")


def called(listener: Any, name: str = "") -> Any:
    """Return what a listener gets and returns of an event."""

    async def main() -> Any:
        found = made(listener, name, HUB, 1)
        result = await found.call(5)
        if found.threads is not None:
            await found.threads.close(WAIT)
        return result

    return go(main)


async def alone(event: Any) -> Any:
    return event


async def with_hub(hub: Any, event: Any) -> Any:
    return hub, event


async def with_hub_behind(event: Any, hub: Any) -> Any:
    return hub, event


async def with_hub_by_name(event: Any, *, hub: Any) -> Any:
    return hub, event


async def with_more(event: Any, *, retries: int = 3) -> Any:
    return event


async def with_any(*args: Any, **kwargs: Any) -> Any:
    return args[-1]


async def with_default(event: Any = None) -> Any:
    return event


@pytest.mark.parametrize("function", [alone, with_more, with_any, with_default, functools.partial(alone)])
def test_a_function_gets_the_event(function: Any) -> None:
    assert called(function) == 5


@pytest.mark.parametrize("function", [with_hub, with_hub_behind, with_hub_by_name])
def test_a_function_gets_the_hub_wherever_it_wants_it(function: Any) -> None:
    assert called(function) == (HUB, 5)


def test_a_plain_function_runs_in_a_thread() -> None:
    def function(hub: Any, event: Any) -> Any:
        return hub, event, threading.current_thread().name

    assert called(function, "mine") == (HUB, 5, "evbus listener mine_0")


def test_what_a_plain_function_returns_is_awaited() -> None:
    assert called(lambda event: alone(event)) == 5  # noqa: PLW0108 - a plain one


def test_of_a_class_an_object_is_made_by_the_hub() -> None:
    class WithHub(EventListener[OrderPlaced]):
        def __init__(self, hub: Any, more: int = 3) -> None:
            self.hub = hub

        async def on(self, event: Any) -> Any:
            return self.hub, event

    class Without(EventListener[OrderPlaced]):
        async def on(self, hub: Any, event: Any) -> Any:
            return hub, event

    class Underived:
        async def on(self, event: Any) -> Any:
            return HUB, event

    for cls in (WithHub, Without, Underived):
        assert called(cls) == (HUB, 5)


def test_an_object_of_a_listener_class_can_be_one() -> None:
    class Listens(EventListener[OrderPlaced]):
        def __init__(self, more: int) -> None:
            self.more = more

        async def on(self, event: Any) -> Any:
            return event + self.more

    assert called(Listens(2)) == 7
    assert short_name(Listens(2)) == "Listens"


def test_a_function_on_of_a_script_is_called_after_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every script is the module __main__: two of them would share their queue.
    def on(event: Any) -> None: ...

    on.__module__ = "__main__"
    for file, name in (("/shop/billing.py", "billing"), ("/shop/mail/__main__.py", "mail")):
        monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
        assert short_name(on) == name


def test_a_method_can_be_one() -> None:
    class Shop:
        async def placed(self, event: Any) -> Any:
            return event

    assert called(Shop().placed) == 5


def test_a_listener_is_called_as_it_was_told_or_as_its_function_or_class() -> None:
    async def on(event: Any) -> None: ...

    class Billing(EventListener[OrderPlaced]):
        async def on(self, event: Any) -> None: ...

    assert made(alone, "mine", HUB, 1).name == "mine"
    assert made(alone, "", HUB, 1).name == "alone"
    assert made(Billing, "", HUB, 1).name == "Billing"
    assert made(functools.partial(alone), "", HUB, 1).name == "alone"
    assert made(on, "", HUB, 1).name == "test_listener"
    assert made(lambda event: None, "", HUB, 1).name == "lambda"
    assert made(alone, "mine", HUB, 1).full_name == "tests.engine.handling.events.test_listener.alone"


def test_what_listens_is_seen() -> None:
    decorated = event_listener(OrderPlaced)(functools.partial(alone))
    assert [spec.event for spec in listens(decorated)] == [OrderPlaced]
    assert listens(alone) == []
    assert listens(5) == []


def test_the_line_is_that_of_the_function() -> None:
    assert line_of(alone) == alone.__code__.co_firstlineno
    assert line_of(5) == 0


async def nothing() -> None: ...


async def two(event: Any, more: Any) -> None: ...


async def hub_alone(hub: Any) -> None: ...


async def by_name(*, event: Any) -> None: ...


async def more_by_name(event: Any, *, more: Any) -> None: ...


class WantsMore(EventListener[OrderPlaced]):
    def __init__(self, hub: Any, database: Any, mailer: Any) -> None: ...

    async def on(self, event: Any) -> None: ...


class NoOn:
    pass


class TwoEvents(EventListener[OrderPlaced]):
    async def on(self, event: Any, more: Any) -> None: ...


CALLED = "and is called with the event alone, or with (hub, event)"
MADE = (
    "the hub makes its object, and has nothing for database, mailer; take the hub alone: "
    "__init__(self, hub), or what is provided for a class: __init__(self, repo: Repo)"
)


@pytest.mark.parametrize(
    ("listener", "said"),
    [
        (nothing, f"it takes (), {CALLED}"),
        (two, f"it takes (event, more), {CALLED}"),
        (hub_alone, f"it takes (hub), {CALLED}"),
        (by_name, f"it takes (event), {CALLED}"),
        (more_by_name, f"it takes (event, more), {CALLED}"),
        (WantsMore, MADE),
        (NoOn, "it has no on(self, event)"),
        (TwoEvents, f"it takes (event, more), {CALLED}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_called_with_an_event_is_refused(listener: Any, said: str) -> None:
    for refuse in (check, lambda listener: made(listener, "", HUB, 1)):
        assert failure(HandlerSignatureError, refuse, listener) == (
            f"the handler tests.engine.handling.events.test_listener.{listener.__name__}: {said}"
        )


async def envelope_first(envelope: Any, event: Any) -> None: ...


async def envelope_before_the_event(hub: Any, envelope: Any, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "shown"),
    [(envelope_first, "envelope, event"), (envelope_before_the_event, "hub, envelope, event")],
)
def test_an_envelope_before_the_event_is_refused_as_no_call_would_succeed(function: Any, shown: str) -> None:
    for refuse in (check, lambda listener: made(listener, "", HUB, 1)):
        assert failure(HandlerSignatureError, refuse, function).endswith(
            f": it takes ({shown}), and is called with the event first: (event, envelope)"
        )


async def yields(event: Any) -> Any:
    yield event


def yields_plainly(event: Any) -> Any:
    yield event


@pytest.mark.parametrize("function", [yields, yields_plainly, functools.partial(yields)])
def test_a_generator_is_refused_as_nothing_of_it_would_run(function: Any) -> None:
    for refuse in (check, lambda listener: made(listener, "", HUB, 1)):
        assert failure(HandlerSignatureError, refuse, function).endswith(
            ": it has a yield, and nothing of it would run; a listener is a plain function, or async def "
            "with await"
        )


def test_what_is_neither_a_function_nor_a_class_is_refused() -> None:
    assert failure(HandlerSignatureError, made, 5, "", HUB, 1) == (
        "a listener is a function, or a class with on(self, event), and not a int"
    )


async def test_the_loop_goes_on_while_a_plain_function_waits_for_it() -> None:
    inside, loop_was_here = threading.Event(), threading.Event()

    def function(event: Any) -> bool:
        inside.set()
        return loop_was_here.wait(WAIT)

    found = made(function, "", HUB, 1)
    waiting = asyncio.ensure_future(found.call(1))
    await until(inside.is_set)
    loop_was_here.set()
    assert await waiting is True
    assert found.threads is not None
    await found.threads.close(WAIT)
