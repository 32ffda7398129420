"""Calls elsewhere: which address gets them, when they are made again, and when they are given up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from evbus.engine.core.settings import Retry
from evbus.engine.service import instance
from evbus.engine.service.call import Call
from evbus.engine.service.declare import Service, method, service, service_spec
from evbus.engine.service.instance import Instance, Instances
from evbus.engine.service.remote import ChannelRoute, OpenChannel, Remote, within
from evbus.engine.service.settings import Breaker, ChannelSettings
from evbus.errors import (
    ServiceCommunicationError,
    ServiceError,
    ServiceTimeout,
)
from tests.dispatch.rig import turns, until


class Declared(Exception):
    pass


@service(raises=[Declared])
class Asked(Service):
    async def once(self, name: str = "") -> str: ...

    @method(idempotent=True)
    async def again(self, name: str = "") -> str: ...

    @method(idempotent=True, hedge_after=0.02)
    async def hedged(self) -> str: ...

    def many(self) -> AsyncIterator[str]: ...

    @method(idempotent=True)
    async def summed(self, items: AsyncIterator[int]) -> int: ...


METHODS = service_spec(Asked).methods
Answer = Callable[[Call, str], Awaitable[Any]]


class Wire:
    """A channel that does what a test says, and keeps the addresses that it was called with."""

    def __init__(self, answer: Answer, *uris: str, stream: Any = None, **settings: Any) -> None:
        self.called: list[str] = []
        self.settings = ChannelSettings(**{"retry": Retry(attempts=3, min=0.001, max=0.002), **settings})
        self.addresses = Instances(self.settings)
        self.addresses.set(uris)
        self._answer, self._stream = answer, stream
        channel = OpenChannel("wire", self.settings, self.invoke, self.stream if stream else None)

        async def route() -> ChannelRoute:
            return ChannelRoute(channel, self.addresses)

        self.remote = Remote("comp", service_spec(Asked), route, lambda: None, lambda: 5.0)

    async def invoke(self, call: Call, address: str) -> Any:
        self.called.append(address)
        return await self._answer(call, address)

    async def stream(self, call: Call, address: str) -> AsyncGenerator[Any, None]:
        self.called.append(address)
        async for item in self._stream(call, address):
            yield item

    async def call(self, name: str, *args: Any) -> Any:
        return await self.remote.call(METHODS[name], args, {})

    def known(self) -> dict[str, Instance]:
        return {one.uri: one for one in self.addresses}


async def ok(call: Call, address: str) -> str:
    return address


def failing(*bad: str, handed_over: bool = False) -> Answer:
    async def answer(call: Call, address: str) -> str:
        if not bad or address in bad:
            raise ServiceCommunicationError(f"{address} is away", handed_over=handed_over)
        return address

    return answer


# Which address


@pytest.mark.parametrize(
    ("select", "called"),
    [("round_robin", ["b", "c", "a", "b"]), ("first", ["a"] * 4), ("least_in_flight", ["a"] * 4)],
)
async def test_one_call_after_another_is_sent_as_the_channel_selects(select: str, called: list[str]) -> None:
    wire = Wire(ok, "a", "b", "c", select=select)
    assert [await wire.call("once") for _ in range(4)] == called


async def test_the_address_with_the_fewest_calls_in_flight() -> None:
    gate = asyncio.Event()

    async def answer(call: Call, address: str) -> str:
        await gate.wait()
        return address

    wire = Wire(answer, "a", "b", "c", select="least_in_flight")
    calls = [asyncio.ensure_future(wire.call("once")) for _ in range(6)]
    await turns(5)
    assert sorted(wire.called) == ["a", "a", "b", "b", "c", "c"]
    gate.set()
    await asyncio.gather(*calls)
    assert {one.in_flight for one in wire.addresses} == {0}


async def test_addresses_follow_what_is_told_of_them() -> None:
    wire = Wire(ok, "a", "b")
    await wire.call("once")
    kept = wire.known()["b"]
    wire.addresses.set(["b", "c"])
    assert {await wire.call("once") for _ in range(4)} == {"b", "c"}
    assert wire.known()["b"] is kept
    wire.addresses.set([])
    with pytest.raises(ServiceCommunicationError) as problem:
        await wire.call("once")
    assert str(problem.value) == (
        "Asked.once of the component 'comp' over wire: it has no address now; see that an instance of it "
        "runs, and that the registry knows it"
    )
    assert problem.value.handed_over is False


async def test_so_many_calls_are_in_flight_at_an_address_and_no_more() -> None:
    gate, running, most = asyncio.Event(), 0, 0

    async def answer(call: Call, address: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return address

    wire = Wire(answer, "a", in_flight=3)
    calls = [asyncio.ensure_future(wire.call("once")) for _ in range(10)]
    await turns(10)
    assert (running, wire.known()["a"].in_flight) == (3, 10)
    calls[5].cancel()  # it waits for its turn
    gate.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in found].count(True) == 1
    assert (most, wire.known()["a"].in_flight) == (3, 0)


async def test_who_waits_for_a_turn_waits_no_longer_than_its_deadline() -> None:
    async def answer(call: Call, address: str) -> str:
        await asyncio.Event().wait()
        return address

    wire = Wire(answer, "a", in_flight=1)
    first = asyncio.ensure_future(wire.call("once"))
    await turns(5)
    with (
        within(0.02),
        pytest.raises(ServiceTimeout, match="Asked.once of .* over wire at a: there was no"),
    ):
        await wire.call("once")
    assert wire.called == ["a"]
    first.cancel()
    await asyncio.wait([first])


# Again


@pytest.mark.parametrize(
    ("name", "handed_over", "tries"),
    [("once", False, 3), ("once", True, 1), ("again", False, 3), ("again", True, 3)],
)
async def test_a_call_is_made_again_where_that_does_no_harm(name: str, handed_over: bool, tries: int) -> None:
    wire = Wire(failing(handed_over=handed_over), "a")
    with pytest.raises(ServiceCommunicationError, match="a is away"):
        await wire.call(name)
    assert wire.called == ["a"] * tries


async def test_other_addresses_are_tried_first() -> None:
    wire = Wire(failing("a", "b"), "a", "b", "c", select="first")
    assert await wire.call("once") == "c"
    assert wire.called == ["a", "b", "c"]


@pytest.mark.parametrize("problem", [Declared(), ServiceError("of another kind"), ServiceTimeout("late")])
async def test_what_the_method_says_is_not_asked_again(problem: Exception) -> None:
    async def answer(call: Call, address: str) -> str:
        raise problem

    wire = Wire(answer, "a", "b")
    with pytest.raises(type(problem)) as found:
        await wire.call("again")
    assert found.value is problem
    assert len(wire.called) == 1


async def test_a_stream_that_was_sent_is_not_sent_again() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    wire = Wire(failing(handed_over=True), "a", "b", stream=ok)
    with pytest.raises(ServiceCommunicationError):
        await wire.call("summed", items())
    assert len(wire.called) == 1


async def test_a_fault_of_a_channel_is_told_with_the_place_and_without_a_password() -> None:
    async def answer(call: Call, address: str) -> str:
        raise KeyError("x")

    wire = Wire(answer, "http://joe:geheim@host:5")
    with pytest.raises(ServiceCommunicationError) as problem:
        await wire.call("once")
    assert str(problem.value) == (
        "Asked.once of the component 'comp' over wire at http://joe:***@host:5: KeyError: 'x'"
    )


# Left alone


async def test_an_address_that_fails_is_left_alone_and_tried_by_one_call_after_a_while() -> None:
    bad = ["a"]

    async def answer(call: Call, address: str) -> str:
        return await failing(*bad)(call, address) if bad else address

    wire = Wire(answer, "a", "b", select="first", breaker=Breaker(failures=2, pause=0.05))
    for _ in range(5):
        assert await wire.call("once") == "b"
    assert wire.called == ["a", "b", "a", "b", "b", "b", "b"]
    assert wire.known()["a"].pause > 0
    assert repr(wire.known()["a"]).startswith("<Instance left alone for 0.")
    bad.clear()
    await until(lambda: not wire.known()["a"].pause)
    gate = asyncio.Event()

    async def slow(call: Call, address: str) -> str:
        if address == "a":
            await gate.wait()
        return address

    wire._answer = slow
    calls = [asyncio.ensure_future(wire.call("once")) for _ in range(3)]
    await turns(5)
    gate.set()
    assert sorted(await asyncio.gather(*calls)) == ["a", "b", "b"]
    assert await wire.call("once") == "a"


async def test_when_all_are_left_alone_calls_fail_at_once_and_say_why() -> None:
    wire = Wire(failing(handed_over=True), "http://joe:geheim@a", breaker=Breaker(failures=2, pause=60))
    for _ in range(2):
        with pytest.raises(ServiceCommunicationError, match="is away"):
            await wire.call("once")
    with pytest.raises(ServiceCommunicationError) as problem:
        await wire.call("once")
    assert re.fullmatch(
        r"Asked.once of the component 'comp' over wire: it is left alone for now, as http://joe:\*\*\*@a "
        r"failed 2 times in a row, and is tried again in \d\d.\d s",
        str(problem.value),
    )
    assert len(wire.called) == 2


async def test_calls_wait_for_an_address_that_may_be_back_in_a_moment() -> None:
    away = True

    async def answer(call: Call, address: str) -> str:
        if away:
            raise ServiceCommunicationError(f"{address} is away", handed_over=False)
        return address

    wire = Wire(answer, "a", breaker=Breaker(failures=3, pause=60))
    calls = [asyncio.ensure_future(wire.call("once")) for _ in range(10)]
    await until(lambda: len(wire.called) > 4)
    assert wire.known()["a"].soon
    assert not any(call.done() for call in calls)
    away = False
    assert await asyncio.gather(*calls) == ["a"] * 10
    assert not wire.known()["a"].soon
    # Once it is left alone, one call at a time tries it.
    assert len(wire.called) <= 3 + 3 + 10


def test_an_address_is_left_alone_for_longer_each_time_that_calls_do_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(instance.time, "monotonic", lambda: now)
    one = Instance("a", ChannelSettings(breaker=Breaker(failures=2, pause=1)))
    one.failed(reached=False)
    assert (one.pause, one.soon) == (0.0, False)
    for pause, soon in ((0.1, True), (0.2, True), (0.4, True), (0.8, True), (1.0, False), (1.0, False)):
        for _ in range(3):
            one.failed(reached=False)
        assert (round(one.pause, 3), one.soon) == (pause, soon)
        now += pause + 0.001
        assert one.pause == 0.0
    one.worked()
    for _ in range(2):
        one.failed()
    assert (one.pause, one.soon) == (1.0, False)


async def test_no_answer_within_the_deadline_counts_as_a_failure() -> None:
    async def answer(call: Call, address: str) -> str:
        await asyncio.Event().wait()
        return address

    wire = Wire(answer, "a", breaker=Breaker(failures=1, pause=60))
    with within(0.01), pytest.raises(ServiceTimeout):
        await wire.call("once")
    assert wire.known()["a"].pause
    # A caller that does not want it any more says nothing of the address.
    wire = Wire(answer, "a", breaker=Breaker(failures=1, pause=60))
    task = asyncio.ensure_future(wire.call("once"))
    await turns(5)
    task.cancel()
    await asyncio.wait([task])
    assert not wire.known()["a"].pause


async def test_failures_of_methods_do_not_count() -> None:
    async def answer(call: Call, address: str) -> str:
        raise Declared

    wire = Wire(answer, "a", breaker=Breaker(failures=1, pause=60))
    for _ in range(3):
        with pytest.raises(Declared):
            await wire.call("once")


# Second requests


async def test_a_second_request_follows_where_the_first_is_slow_and_the_slow_one_is_cancelled() -> None:
    cancelled: list[str] = []

    async def answer(call: Call, address: str) -> str:
        if len(wire.called) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(address)
                raise
        return address

    wire = Wire(answer, "a", "b", select="first")
    assert await wire.call("hedged") == "b"
    assert (wire.called, cancelled) == (["a", "b"], ["a"])
    assert {one.in_flight for one in wire.addresses} == {0}


async def test_a_quick_answer_needs_no_second_request() -> None:
    wire = Wire(ok, "a", "b")
    assert await wire.call("hedged") in "ab"
    assert len(wire.called) == 1


async def test_a_failure_waits_for_the_other_request() -> None:
    async def answer(call: Call, address: str) -> str:
        if len(wire.called) == 1:
            await asyncio.sleep(0.05)
            raise Declared
        await asyncio.sleep(0.1)
        return address

    wire = Wire(answer, "a", "b", select="first")
    assert await wire.call("hedged") == "b"


async def test_a_caller_that_is_cancelled_cancels_both_requests() -> None:
    ended: list[str] = []

    async def answer(call: Call, address: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(address)
        return address

    wire = Wire(answer, "a", "b", select="first")
    task = asyncio.ensure_future(wire.call("hedged"))
    await until(lambda: len(wire.called) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["a", "b"]


# Deadlines


async def test_a_call_without_time_is_not_made() -> None:
    wire = Wire(ok, "a")
    with within(0.001):
        await asyncio.sleep(0.002)
        with pytest.raises(ServiceTimeout, match="Asked.once: there is no time left for it"):
            await wire.call("once")
    assert not wire.called


async def test_the_time_of_all_attempts_is_one() -> None:
    wire = Wire(failing(), "a", retry=Retry(attempts=1000, min=0.01, max=0.02))
    with within(0.1), pytest.raises((ServiceTimeout, ServiceCommunicationError)):
        await wire.call("once")
    assert len(wire.called) < 100


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_is_above_0(seconds: float) -> None:
    with pytest.raises(ValueError, match="this is a number of seconds above 0"), within(seconds):
        pass


# Streams


async def test_a_stream_is_begun_elsewhere_when_it_was_not_handed_over() -> None:
    async def stream(call: Call, address: str) -> AsyncIterator[str]:
        if address == "a":
            raise ServiceCommunicationError("a is away", handed_over=False)
        yield address
        raise ServiceCommunicationError("cut", handed_over=False)

    wire = Wire(ok, "a", "b", stream=stream, select="first")
    items = wire.remote.stream(METHODS["many"], (), {})
    assert await anext(items) == "b"
    with pytest.raises(ServiceCommunicationError, match="cut"):
        await anext(items)
    assert wire.called == ["a", "b"]
    assert {one.in_flight for one in wire.addresses} == {0}
