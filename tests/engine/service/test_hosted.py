"""Calls that come from others: what is called, with what, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evbus import session
from evbus.engine.handling.frame import CURRENT
from evbus.engine.service.failures import MethodFailed
from evbus.engine.service.hosted import Hosted
from evbus.errors import (
    AuthorizationError,
    InvalidPayload,
    LocalServiceError,
    Rejected,
    ServiceTimeout,
    Unavailable,
)
from tests.dispatch.rig import turns, until
from tests.engine.service.kit import Item, OutOfStock, ShopImpl, hosted, method_of


async def call(
    made: Hosted,
    name: str,
    *args: Any,
    seconds: float | None = 10,
    headers: dict[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    return await made.call(method_of(made, name), args, kwargs, headers=headers or {}, seconds=seconds)


def test_exactly_the_declared_methods_are_there() -> None:
    names = [f"store:shop:{name}" for name in ("order", "price", "find", "fail", "every", "total")]
    assert [method.name for method in hosted().methods()] == names


@pytest.mark.parametrize(
    "name",
    [
        "store:shop:public_but_not_declared",
        "store:shop:_private",
        "store:shop:__class__",
        "store:shop:__init__",
        "store:shop:calls",
        "store:shop",
        "store:shop:order:x",
        "shop:store:order",
        "",
        ":::",
        "store:shop:ordr",
    ],
)
def test_nothing_else_is_found_and_others_are_not_told_what_there_is(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evbus.service")
    with pytest.raises(LocalServiceError) as problem:
        hosted().find(name)
    assert str(problem.value) == f"there is no method {name!r}"
    assert "a method was called that there is none of" in caplog.text


def test_the_log_has_the_nearest_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "evbus.service")
    with pytest.raises(LocalServiceError):
        hosted().find("store:shop:ordr")
    assert caplog.messages == [
        "a method was called that there is none of: 'store:shop:ordr'; did you mean 'store:shop:order'?"
    ]


async def test_arguments_are_of_their_types() -> None:
    shop = ShopImpl()
    made = hosted(shop)
    result = await call(made, "order", {"name": "pen", "parts": [{"name": "cap"}]}, 3, note="!")
    item = Item("pen", 1, [Item("cap")])
    assert shop.calls == [(item, 3, "!")]
    assert result == Item("pen!", 3, [item])


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ([], {}, "Shop.order: the argument 'item' is missing"),
        ([{"name": "pen"}, 1, "x"], {}, "Shop.order takes 2 arguments by position, and 3 came"),
        ([{"name": "pen"}], {"item": {}}, "Shop.order: the argument 'item' came twice"),
        ([{"name": "pen"}], {"self": 1}, "Shop.order: the argument 'self' is none that it takes"),
        ([{"name": "pen"}], {"x\n" * 99: 1}, "Shop.order: the argument .* is none that it takes"),
        ([{"name": "pen"}, "7"], {}, "Shop.order: the argument 'count': this is no int: Expected `int`"),
        ([{"name": 5}], {}, r"Shop.order: the argument 'item': this is no Item: .* at `\$.name`"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused(args: Any, kwargs: Any, said: str) -> None:
    shop = ShopImpl()
    made = hosted(shop)
    with pytest.raises(InvalidPayload, match=said):
        await made.call(method_of(made, "order"), args, kwargs, headers={}, seconds=1)
    assert not shop.calls


async def test_a_plain_method_runs_in_a_thread_beside_the_loop() -> None:
    shop = ShopImpl()
    made = hosted(shop)
    assert await call(made, "price", "pen") == 6.0
    assert await call(made, "price", "pen", factor=3) == 9
    assert all(name.startswith("evbus services_") for name in shop.calls)
    assert await made.close(1) == 0


async def test_so_many_plain_methods_run_at_once_and_no_more() -> None:
    barrier, most = threading.Barrier(2), 0
    running = 0

    class Busy(ShopImpl):
        def price(self, name: str, /, factor: float = 2.0) -> float:
            nonlocal running, most
            running += 1
            most = max(most, running)
            barrier.wait(20)
            running -= 1
            barrier.wait(20)
            return 1.0

    made = hosted(Busy(), threads=2)
    await asyncio.gather(*[call(made, "price", "pen", seconds=None) for _ in range(6)])
    assert most == 2
    await made.close(1)


async def test_a_plain_method_may_raise_what_no_future_can_hold() -> None:
    made = hosted()
    with pytest.raises(MethodFailed) as problem:
        await call(made, "price", "stop")
    assert problem.value.error == {"type": "RuntimeError", "reason": "the method raised StopIteration"}
    await made.close(1)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("value", {"type": "ValueError", "reason": "a bad value"}),
        ("timeout", {"type": "TimeoutError", "reason": "of its own"}),
        (
            "stock",
            {
                "type": "OutOfStock",
                "reason": "3 of pen are left",
                "args": ["3 of pen are left"],
                "data": {"item": "pen", "left": 3},
            },
        ),
    ],
)
async def test_what_a_method_raises_is_its_failure(how: str, error: dict[str, Any]) -> None:
    with pytest.raises(MethodFailed) as problem:
        await call(hosted(), "fail", how)
    assert problem.value.error == error


async def test_a_cancellation_of_its_own_is_a_failure_and_cancels_nobody() -> None:
    with pytest.raises(MethodFailed, match="it was cancelled from within"):
        await call(hosted(), "fail", "cancelled")


async def test_a_method_is_cancelled_when_its_time_is_up() -> None:
    shop = ShopImpl()
    made = hosted(shop)
    with pytest.raises(ServiceTimeout, match="Shop.fail took longer than the 0.01 s that were left for it"):
        await call(made, "fail", "wait", seconds=0.01)
    assert (shop.ended, made.active) == (["wait"], 0)


async def test_a_call_that_comes_late_is_not_begun() -> None:
    shop = ShopImpl()
    with pytest.raises(ServiceTimeout, match="Shop.order: its deadline was over when it came here"):
        await call(hosted(shop), "order", {"name": "pen"}, seconds=-1)
    assert not shop.calls


async def test_a_method_is_cancelled_with_its_caller() -> None:
    shop = ShopImpl()
    made = hosted(shop)
    task = asyncio.create_task(call(made, "fail", "wait"))
    await until(lambda: made.active)
    await turns(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (shop.ended, made.active) == (["wait"], 0)


async def test_what_is_called_within_has_the_headers_and_the_deadline() -> None:
    seen: list[Any] = []

    class Looking(ShopImpl):
        async def find(self, name: str) -> Item | None:
            seen.append(CURRENT.get())
            return None

    assert await call(hosted(Looking()), "find", "x", headers={"tenant": "t1"}, seconds=5) is None
    (frame,) = seen
    assert frame.envelope.headers == {"tenant": "t1"}
    assert 4 < frame.limit.left() <= 5
    assert CURRENT.get() is None


# Interceptors


async def test_interceptors_are_around_the_method_and_its_arguments() -> None:
    seen: list[Any] = []

    async def around(envelope: Any, call_next: Any) -> Any:
        seen.append((envelope.routing_key, dict(envelope.headers)))
        with session.inside(session.Session({"user": "joe"}, "")):
            try:
                return await call_next(envelope)
            except Exception as exc:
                seen.append(type(exc))
                raise

    class Looking(ShopImpl):
        async def find(self, name: str) -> Item | None:
            return Item(session.current()["user"])

    made = hosted(Looking(), around)
    assert await call(made, "find", "x", headers={"a": "b"}) == Item("joe")
    with pytest.raises(MethodFailed):
        await call(made, "fail", "stock")
    with pytest.raises(InvalidPayload):
        await call(made, "find")
    assert [one for one in seen if isinstance(one, type)] == [OutOfStock, InvalidPayload]
    assert seen[0] == ("store:shop:find", {"a": "b"})


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (AuthorizationError("no token"), AuthorizationError),
        (Rejected("a bad signature"), Rejected),
        (KeyError("a fault"), MethodFailed),
    ],
)
async def test_an_interceptor_may_refuse_a_call(problem: Exception, expected: type[Exception]) -> None:
    async def around(envelope: Any, call_next: Any) -> Any:
        raise problem

    shop = ShopImpl()
    with pytest.raises(expected):
        await call(hosted(shop, around), "order", {"name": "pen"})
    assert not shop.calls


async def test_a_call_that_an_interceptor_does_not_hand_on_is_refused() -> None:
    async def around(envelope: Any, call_next: Any) -> Any:
        return None

    with pytest.raises(Rejected, match="Shop.find: a pipeline plugin did not hand the call on"):
        await call(hosted(None, around), "find", "x")


async def test_a_method_may_refuse_who_calls() -> None:
    class Guarded(ShopImpl):
        async def find(self, name: str) -> Item | None:
            raise AuthorizationError("not you", known=True)

    with pytest.raises(AuthorizationError, match="not you"):
        await call(hosted(Guarded()), "find", "x")


# Streams


async def items_of(made: Hosted, count: int) -> list[Any]:
    return [item async for item in made.stream(method_of(made, "every"), [count], {}, headers={})]


async def test_a_stream_yields_its_items_and_ends() -> None:
    shop = ShopImpl()
    made = hosted(shop)
    assert await items_of(made, 3) == [Item("0"), Item("1"), Item("2")]
    assert (shop.ended, made.active) == (["every"], 0)


async def test_what_a_stream_raises_is_its_failure() -> None:
    with pytest.raises(MethodFailed) as problem:
        await items_of(hosted(), 0)
    assert problem.value.error["data"] == {"item": "pen", "left": 0}


async def test_a_stream_is_closed_with_who_reads_it() -> None:
    shop = ShopImpl()
    made = hosted(shop)
    async with contextlib.aclosing(made.stream(method_of(made, "every"), [9], {}, headers={})) as items:
        assert await anext(items) == Item("0")
        assert made.active == 1
    assert (shop.ended, made.active) == (["every"], 0)


async def test_what_interceptors_set_is_there_to_the_end_of_a_stream_and_nowhere_else() -> None:
    async def around(envelope: Any, call_next: Any) -> Any:
        with session.inside(session.Session({"user": "joe"}, "")):
            return await call_next(envelope)

    class Looking(ShopImpl):
        async def every(self, count: int) -> AsyncIterator[Item]:
            for _ in range(count):
                yield Item(session.current()["user"])
                await asyncio.sleep(0)
                assert CURRENT.get() is not None

    made = hosted(Looking(), around)
    async for item in made.stream(method_of(made, "every"), [3], {}, headers={}):
        assert item == Item("joe")
        assert not session.current()
        assert CURRENT.get() is None


async def test_items_of_an_argument_are_of_their_type() -> None:
    async def items(*values: Any) -> AsyncIterator[Any]:
        for value in values:
            yield value

    made = hosted()
    assert await call(made, "total", items({"name": "a", "count": 2}, {"name": "b"})) == 3
    with pytest.raises(MethodFailed, match="Shop.total: item 1 of the argument 'items': this is no Item"):
        await call(made, "total", items({"name": "a"}, 5))


# The end


async def test_a_stop_waits_for_calls_and_takes_no_more() -> None:
    gate = asyncio.Event()

    class Waiting(ShopImpl):
        async def find(self, name: str) -> Item | None:
            await gate.wait()
            return None

    made = hosted(Waiting())
    first = asyncio.create_task(call(made, "find", "x"))
    await until(lambda: made.active)
    closing = asyncio.create_task(made.close(60))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="the services here are stopping"):
        await call(made, "find", "x")
    assert not closing.done()
    gate.set()
    assert (await first, await closing) == (None, 0)
    made.resume()
    assert await call(made, "find", "x") is None


async def test_a_stop_tells_of_calls_that_do_not_end(caplog: pytest.LogCaptureFixture) -> None:
    made = hosted()
    task = asyncio.create_task(call(made, "fail", "wait"))
    await until(lambda: made.active)
    assert await made.close(0.01) == 1
    assert caplog.messages == ["1 call of services is still under way at the stop"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
