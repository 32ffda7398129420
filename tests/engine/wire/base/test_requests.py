"""Requests and the replies that belong to them, and what they need opened once for all."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from evbus.engine.wire.base.requests import Correlator, SingleFlight, anew
from evbus.errors import ConnectFailed, ConnectionLost, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope

log = logging.getLogger("evbus.test")


async def test_each_request_gets_its_reply_its_error_or_its_time_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "evbus.test")

    requests = Correlator("here", log)
    now = asyncio.get_running_loop().time()
    ids = [requests.new_id() for _ in range(5)]
    # The later deadline first: the timer is for the earliest.
    seconds = (30.0, 30.0, 0.02, 30.0, 30.0)
    asked = [
        asyncio.ensure_future(requests.reply(each, requests.expect(each, now + left, left)))
        for each, left in zip(ids, seconds, strict=True)
    ]
    assert len(requests) == len(set(ids)) == 5
    requests.answer(ids[1], Envelope("p", "", b"1"))
    requests.answer(ids[1], Envelope("p", "", b"twice"))
    requests.fail(ids[3], Rejected("no"))
    await asyncio.sleep(0)
    asked[4].cancel()
    found = await asyncio.gather(*asked[1:], return_exceptions=True)
    assert isinstance(found[0], Envelope)
    assert found[0].body == b"1"
    assert isinstance(found[1], DeliveryTimeout)
    assert found[1].seconds == 0.02
    assert [type(each) for each in found[2:]] == [Rejected, asyncio.CancelledError]
    assert list(map(requests.__contains__, ids)) == [True, False, False, False, False]
    requests.answer(ids[1], Envelope("p", "", b"late"))
    assert "a reply is ignored, as nobody waits for it" in caplog.text
    requests.end(lambda: Unavailable("lost"))
    with pytest.raises(Unavailable, match="lost"):
        await asked[0]
    assert not len(requests)


def test_a_request_that_is_nearly_due_disturbs_none_that_comes_after_it(uvloop_runner: Any) -> None:
    async def main() -> None:
        requests = Correlator("here", log)
        now = asyncio.get_running_loop().time()
        asked = [
            asyncio.ensure_future(requests.reply(one, requests.expect(one, now + seconds, seconds)))
            for one, seconds in ((requests.new_id(), seconds) for seconds in (0.0002, 0.0001, 0.0, 0.02))
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in found] == [DeliveryTimeout] * 4

    with uvloop_runner() as runner:
        runner.run(main())


async def test_deadlines_of_requests_that_are_answered_are_sorted_out() -> None:
    requests = Correlator("here", log)
    deadline = asyncio.get_running_loop().time() + 60
    for _ in range(5000):
        one = requests.new_id()
        reply = requests.expect(one, deadline, 60)
        requests.answer(one, Envelope("p"))
        await requests.reply(one, reply)
    assert len(requests._deadlines) < 2000
    requests.end(lambda: Unavailable("over"))


async def test_all_who_need_it_wait_for_the_same_attempt_whoever_gives_up() -> None:
    made: list[asyncio.Future[str]] = []

    async def attempt() -> str:
        made.append(asyncio.get_running_loop().create_future())
        return await made[-1]

    opener = SingleFlight(attempt, lambda: Unavailable("gone"))
    waiting = [asyncio.ensure_future(opener.open()) for _ in range(3)]
    with pytest.raises(TimeoutError):
        await opener.open(0.01)
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    made[0].set_result("open")
    assert await asyncio.gather(*waiting[1:]) == ["open", "open"]
    assert len(made) == 1
    # Who asks later begins anew; at the end nobody does.
    again = asyncio.ensure_future(opener.open())
    await asyncio.sleep(0.01)
    assert len(made) == 2
    await opener.close()
    for asked in (again, asyncio.ensure_future(opener.open())):
        with pytest.raises(Unavailable, match="gone"):
            await asked
    assert opener.closed


async def test_each_who_waits_gets_an_error_of_its_own_and_nobody_is_told_of_one_for_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)

    async def attempt() -> None:
        await asyncio.sleep(0.01)
        raise ConnectFailed("no")

    opener = SingleFlight(attempt, lambda: Unavailable("gone"))
    found = await asyncio.gather(opener.open(), opener.open(), return_exceptions=True)
    assert [type(each) for each in found] == [ConnectFailed, ConnectFailed]
    assert found[0] is not found[1]
    with pytest.raises(TimeoutError):
        await opener.open(0)
    await asyncio.sleep(0.05)
    del opener
    gc.collect()
    assert not caplog.records


def test_an_error_anew_is_of_the_same_kind() -> None:
    lost = anew(ConnectionLost("a", alone=True), "b")
    assert isinstance(lost, ConnectionLost)
    assert (lost.alone, str(lost)) == (True, "b")
    assert type(anew(Rejected("a"))) is Rejected
