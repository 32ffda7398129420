"""Calls over every channel: arguments, results, failures, streams, headers and deadlines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from evbus import session
from evbus.errors import (
    AuthorizationError,
    PayloadError,
    PayloadTooDeep,
    RemoteServiceError,
    SerializeError,
    ServiceError,
    ServiceTimeout,
)
from tests.evbus.kit import write
from tests.evbus.rig import until
from tests.service.everything import Closed, Everything, Item, Model, Node, OutOfStock, Rich, Strange
from tests.service.table import CHANNELS, Channel, place

ITEMS = [
    Item("x"),
    Item("ä\n\0\U0001f600", -5, [Item("a", 2, [Item("b", 3)]), Item("c")]),
    Item("x" * 100_000),
]


async def test_values_of_all_types_go_there_and_back(channel: Channel) -> None:
    model = Model(root=Node(value=1, left=Node(value=2)), items=[Item("x", 2, [Item("y")])])
    async with place(channel) as at:
        for item in ITEMS:
            assert await at.proxy.echo(item) == item
        found = await at.proxy.model(model)
        assert isinstance(found, Model)
        assert found == model
        assert await at.proxy.rich(Rich.one()) == Rich.one()


async def test_arguments_by_position_by_name_and_by_default(channel: Channel) -> None:
    async with place(channel) as at:
        add: Any = at.proxy.add
        assert await add(1) == await add(a=1) == 123
        assert await add(1, 5) == 153
        assert await add(1, b=7, c=8) == 178
        assert await add(b=7, a=2) == 273
        for args, kwargs, said in (
            ((), {}, "missing (a|1) required .*argument: 'a'"),
            ((1, 2, 3), {}, "too many positional arguments|takes from 2 to 3 positional arguments"),
            ((1,), {"x": 1}, "got an unexpected keyword argument 'x'"),
        ):
            with pytest.raises(TypeError, match=said):
                await add(*args, **kwargs)


async def test_results_that_are_none_empty_or_many(channel: Channel) -> None:
    async with place(channel) as at:
        assert await at.proxy.nothing() is None
        assert await at.proxy.optional() is None
        assert await at.proxy.optional("") == ""
        assert await at.proxy.optional("x & y/z?ä=1#2") == "x & y/z?ä=1#2"
        assert await at.proxy.items({"a": [Item("x"), Item("y")], "b": [], "c": [Item("z")]}) == [
            Item("x"),
            Item("y"),
            Item("z"),
        ]
        assert await at.proxy.items({}) == []


@pytest.mark.able("remote")
async def test_an_argument_of_another_type_is_refused_where_it_is_read(channel: Channel) -> None:
    async with place(channel) as at:
        wrong: Any = {"name": 5}
        with pytest.raises(
            RemoteServiceError, match=r"argument 'item'.*Expected `str`, got `int` - at `\$.name"
        ):
            await at.proxy.echo(wrong)
        # And the next call goes through.
        assert await at.proxy.echo(Item("x")) == Item("x")


async def test_a_plain_method_is_called_from_a_thread(channel: Channel) -> None:
    async with place(channel) as at:
        assert await asyncio.to_thread(at.proxy.plain, "a b/c?ä", times=2) == "a b/c?ä" * 2
        results = await asyncio.gather(*[asyncio.to_thread(at.proxy.plain, str(n)) for n in range(20)])
        assert results == [str(n) for n in range(20)]
        if "remote" in channel.can:
            assert all(name.startswith("evbus services_") for name in at.made.threads)


async def test_many_calls_at_once_get_each_its_own_result(channel: Channel) -> None:
    async with place(channel) as at:
        found = await asyncio.gather(*[at.proxy.echo(Item(str(n), n)) for n in range(300)])
        assert found == [Item(str(n), n) for n in range(300)]


# Failures


async def test_declared_exceptions_arrive_as_themselves(channel: Channel) -> None:
    async with place(channel) as at:
        with pytest.raises(OutOfStock, match="3 of pen are left") as problem:
            await at.proxy.fail("stock")
        assert (problem.value.item, problem.value.left) == ("pen", 3)
        with pytest.raises(Closed):
            await at.proxy.fail("closed")


@pytest.mark.able("remote")
async def test_others_arrive_with_their_type_and_text_and_no_secret(channel: Channel) -> None:
    async with place(channel) as at:
        with pytest.raises(RemoteServiceError) as problem:
            await at.proxy.fail("strange")
        assert (problem.value.type, problem.value.reason) == ("Strange", "with amqp://joe:***@host/")
        with pytest.raises(RemoteServiceError, match="KeyError: 'id'"):
            await at.proxy.fail("key")
        with pytest.raises(RemoteServiceError, match="KeyError: 'nothing'"):
            await at.proxy.fail("nothing")


async def test_who_may_not_call_is_told_so(channel: Channel) -> None:
    async with place(channel) as at:
        for how, known in (("unknown", False), ("denied", True)):
            with pytest.raises(AuthorizationError) as problem:
                await at.proxy.fail(how)
            assert problem.value.known is known


async def test_what_is_raised_here_is_what_it_is() -> None:
    async with place(CHANNELS[0]) as at:
        with pytest.raises(Strange, match="geheim"):
            await at.proxy.fail("strange")


# What is not as the interface says


@pytest.mark.able("remote")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("text", r"returned str, and its interface declares Item: .*Expected `object`, got `str`"),
        (
            "nothing",
            r"returned NoneType, and its interface declares Item: .*got `null`; is a return missing\?$",
        ),
        (
            "deep",
            r"returned Item, and its interface declares Item: .*`int`, got `str` - at `\$.parts\[0\].count`",
        ),
        ("lock", r"returned lock, which cannot be serialized as (json|msgpack): .* - at \$$"),
        ("deep lock", r"returned Item, which cannot be serialized as (json|msgpack): .* - at \$.name"),
        ("coroutine", r"returned coroutine, which cannot be serialized .*; was it to be awaited\?$"),
    ],
)
async def test_a_result_that_is_not_what_is_declared_is_refused_where_it_is_made(
    channel: Channel, how: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(channel) as at:
        with pytest.raises(RemoteServiceError) as problem:
            await at.proxy.odd(how)
        assert problem.value.type == "InvalidResult"
        assert re.match(r"Everything.odd of the component 'everything' " + said, problem.value.reason)
        # The log of the server says the same, and shows no way into the encoder.
        told = [one for one in caplog.records if one.levelname == "ERROR"]
        assert [(one.getMessage(), one.exc_info) for one in told] == [(problem.value.reason, None)]
        assert await at.proxy.odd("fits") == Item("x", 2)


@pytest.mark.able("remote", "streams")
async def test_an_item_that_is_not_what_is_declared_ends_the_stream(channel: Channel) -> None:
    async with place(channel) as at:
        for deep, kind in ((True, "Item"), (False, "str")):
            seen: list[Item] = []
            said = f"InvalidResult: Everything.odds of the component 'everything' returned {kind}, and"
            with pytest.raises(RemoteServiceError, match=said):
                await read(at.proxy.odds(deep=deep), seen)
            assert seen == [Item("a"), Item("b")]
        said = (
            "InvalidResult: Everything.unstreamed of the component 'everything' returned list, and .* stream"
        )
        with pytest.raises(RemoteServiceError, match=said):
            await read(at.proxy.unstreamed(), [])


async def test_a_result_is_what_it_is_here() -> None:
    async with place(CHANNELS[0]) as at:
        found: Any = await at.proxy.odd("text")
        assert found == "x"


@pytest.mark.able("remote")
async def test_an_argument_that_cannot_travel_is_named(channel: Channel) -> None:
    async with place(channel) as at:
        strange: Any = Item("x", 1, [Item(object())])  # type: ignore[arg-type]
        said = (
            r"Everything.echo: the argument 'item', of the type Item, cannot be serialized as (json|msgpack)"
        )
        with pytest.raises(SerializeError, match=said + r": .* - at \$.parts\[0\].name"):
            await at.proxy.echo(strange)
        # And the next call goes through.
        assert await at.proxy.echo(Item("x")) == Item("x")
        deep: Any = []
        for _ in range(70):
            deep = [deep]
        with pytest.raises(PayloadTooDeep, match="the argument 'item', of the type list, nests"):
            await at.proxy.echo(deep)


@pytest.mark.able("remote", "streams")
async def test_an_item_of_an_argument_that_cannot_travel_is_named(channel: Channel) -> None:
    async def strange() -> AsyncIterator[Any]:
        yield Item("x")
        yield object()

    async with place(channel) as at:
        with pytest.raises(
            RemoteServiceError, match="Everything.total: an item of the argument 'items', of the type object"
        ):
            await at.proxy.total(strange())
        with pytest.raises(
            SerializeError, match="Everything.total: the argument 'start', of the type object"
        ):
            await at.proxy.total(parts(1), start=object())  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match="'items' is a stream: an asynchronous iterator, .* not list"):
            await at.proxy.total([Item("x")])  # type: ignore[arg-type]


# Deadlines and cancellation


@pytest.mark.able("remote")
async def test_a_method_is_cancelled_at_its_deadline_on_both_sides(channel: Channel) -> None:
    async with place(channel) as at:
        with pytest.raises(
            ServiceTimeout, match=rf"Everything.quick of the component 'everything' over {channel.name}"
        ):
            await at.proxy.quick()
        await until(lambda: at.made.ended == ["quick"])
        assert at.made.begun == ["quick"]


@pytest.mark.able("remote")
async def test_the_deadline_is_that_of_the_call_the_method_or_the_option(channel: Channel) -> None:
    async with place(channel, service_timeout=20) as at:
        # It travels in milliseconds, by another clock.
        assert 15 < await at.proxy.left() < 20.1
        with at.caller.service.init.within(5), at.caller.service.init.within(9):
            assert 3 < await at.proxy.left() < 5.1
        with pytest.raises(ServiceTimeout), at.caller.service.init.within(0.5):
            await at.proxy.wait("x")
        await until(lambda: at.made.ended == ["x"])


@pytest.mark.able("cancels")
async def test_a_caller_that_is_cancelled_cancels_the_method(channel: Channel) -> None:
    async with place(channel) as at:
        task = asyncio.ensure_future(at.proxy.wait("x"))
        await until(lambda: at.made.begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: at.made.ended == ["x"])
        # And nothing else is disturbed.
        assert await at.proxy.add(1) == 123


@pytest.mark.able("remote")
async def test_the_method_of_a_caller_that_is_cancelled_runs_to_its_deadline_at_the_most(
    channel: Channel,
) -> None:
    async with place(channel) as at:
        with at.caller.service.init.within(2):
            task = asyncio.ensure_future(at.proxy.wait("x"))
        await until(lambda: at.made.begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: at.made.ended == ["x"])
        assert await at.proxy.add(1) == 123


@pytest.mark.able("remote")
async def test_what_a_handler_calls_has_the_handlers_time(channel: Channel) -> None:
    async with place(channel) as at:
        dispatch = at.caller.dispatch

        async def handle(message: str, everything: Everything) -> float:
            return await at.proxy.left()

        dispatch.commands.bind("ask", handle)
        await dispatch.init.start()
        assert 1 < await dispatch.commands.handle("ask", wait_for_response=True, timeout=4) < 4.1
        await dispatch.init.stop()


# Interceptors

TENANT = """
def send(hub, envelope):
    envelope.headers["tenant"] = "t1"

async def handle(hub, envelope, call_next):
    if envelope.headers.get("tenant") != "t1":
        raise PermissionError
    return await call_next(envelope)
"""


async def test_interceptors_on_both_sides_and_the_session(channel: Channel, tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__tenant=TENANT)
    async with place(channel, plugin_dirs=[root], pipeline=["session", "tenant"]) as at:
        with session.use(user="joe"):
            seen = await at.proxy.seen()
        assert seen["tenant"] == "t1"
        assert seen["evbus-session"] == '{"user":"joe"}'


@pytest.mark.able("remote")
async def test_headers_of_what_is_handled_go_on_with_what_is_called(channel: Channel) -> None:
    async with place(channel) as at:

        async def handle(message: str) -> dict[str, str]:
            return await at.proxy.seen()

        at.caller.dispatch.commands.bind("ask", handle)
        await at.caller.dispatch.init.start()
        headers = {"traceparent": "00-1", "correlation-id": "5"}
        seen = await at.caller.dispatch.commands.handle("ask", wait_for_response=True, headers=headers)
        await at.caller.dispatch.init.stop()
        assert seen["traceparent"] == "00-1"
        assert "correlation-id" not in seen


# Streams


async def numbers(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


async def parts(*counts: int) -> AsyncIterator[Item]:
    for count in counts:
        yield Item("x", count)


async def read(items: AsyncIterator[Any], seen: list[Any]) -> None:
    async for item in items:
        seen.append(item)  # noqa: PERF401 - what came before it fails is kept


@pytest.mark.able("streams")
async def test_a_stream_of_results(channel: Channel) -> None:
    async with place(channel) as at:
        assert [number async for number in at.proxy.count(0)] == []
        assert [number async for number in at.proxy.count(3000)] == list(range(3000))
        assert at.made.ended == ["count", "count"]


@pytest.mark.able("streams")
async def test_a_stream_that_nobody_reads_waits_and_is_closed_with_its_reader(channel: Channel) -> None:
    async with place(channel) as at:
        items: Any = at.proxy.count(10_000_000)
        assert [await anext(items) for _ in range(5)] == [0, 1, 2, 3, 4]
        # It is bounded by what lies on the way.
        await asyncio.sleep(0.2)
        assert at.made.yielded < 5_000_000
        await items.aclose()
        await until(lambda: at.made.ended == ["count"])


@pytest.mark.able("streams")
async def test_a_stream_that_fails_yields_what_came_before(channel: Channel) -> None:
    async with place(channel) as at:
        seen: list[Item] = []
        with pytest.raises(OutOfStock) as problem:
            await read(at.proxy.told("stock"), seen)
        assert (seen, problem.value.left) == ([Item("a"), Item("b")], 3)


@pytest.mark.able("streams", "remote")
async def test_the_time_of_a_stream_is_that_for_an_item(channel: Channel) -> None:
    async with place(channel) as at:
        seen: list[Item] = []
        with pytest.raises(ServiceTimeout, match="no item within"), at.caller.service.init.within(0.5):
            await read(at.proxy.told("wait"), seen)
        assert seen == [Item("a"), Item("b")]
        await until(lambda: at.made.ended == ["told"])


@pytest.mark.able("streams")
async def test_a_stream_of_arguments(channel: Channel) -> None:
    async with place(channel) as at:
        assert await at.proxy.total(parts()) == 0
        assert await at.proxy.total(parts(1, 2, 3), start=10) == 16
        assert [number async for number in at.proxy.doubled(numbers(1000))] == list(range(0, 2000, 2))


@pytest.mark.able("remote")
async def test_a_channel_without_streams_says_so(channel: Channel) -> None:
    if "streams" in channel.can:
        return
    async with place(channel) as at:
        could = "dispatch-json or dispatch-msgpack"
        said = f"over {channel.name}: this channel has no streams; call it over {could}"
        with pytest.raises(ServiceError, match=said):
            await anext(at.proxy.count(1))
        for sent in (at.proxy.total(parts(1)), anext(at.proxy.doubled(numbers(1)))):
            with pytest.raises(ServiceError, match=said):
                await sent
        assert await at.proxy.add(1) == 123
