"""A caller and a server whose interfaces differ, as one of them is older."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pytest

from evbus.engine.service.declare import Service, implementation, service
from tests.evbus.kit import new_hub


@service(name="sums")
class Before(Service):
    @abstractmethod
    async def total(self, a: int, b: int = 1, c: int = 2, *, d: int = 3) -> list[int]: ...


@service(name="sums")
class Now(Service):
    @abstractmethod
    async def total(self, a: int, x: int = 0, b: int = 10, c: int = 20, *, d: int = 30) -> list[int]: ...


@implementation()
class NowImpl(Now):
    async def total(self, a: int, x: int = 0, b: int = 10, c: int = 20, *, d: int = 30) -> list[int]:
        return [a, x, b, c, d]


@pytest.mark.parametrize("channel", ["dispatch-json", "dispatch-msgpack"])
async def test_what_is_given_by_name_is_taken_for_that_and_defaults_are_those_of_the_server(
    channel: str,
) -> None:
    there, here = new_hub(), new_hub()
    there.service.init.add(NowImpl)
    await there.service.init.start(port=0)
    try:
        url = f"http://127.0.0.1:{there.service.init.report()['port']}"
        for positional in (False, True):
            about: Any = {"registry": {"static": {"sums": {channel: url}}}}
            about["channels"] = {channel: {"positional": positional}}
            await here.service.init.start(settings=about)
            sums = here.service.init.get(Before)
            assert await sums.total(5) == [5, 0, 10, 20, 30]
            assert await sums.total(5, d=7) == [5, 0, 10, 20, 7]
            # By position alone, and with the defaults of the caller, what was put between is in the way.
            by_name = [5, 0, 10, 7, 30]
            assert await sums.total(5, c=7) == ([5, 1, 7, 20, 30] if positional else by_name)
            assert await sums.total(a=5, c=7) == ([5, 1, 7, 20, 30] if positional else by_name)
            await here.service.init.stop()
    finally:
        await there.service.init.stop()
