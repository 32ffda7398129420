"""One attempt for all who need what it opens."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from evbus.engine.wire.base.requests import SingleFlight, anew
from evbus.errors import ConnectFailed, ConnectionLost, Rejected, Unavailable


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
