"""Where components are: what a registry tells, once, again and wrongly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest

from evbus.engine.service.declare import ChannelAddress
from evbus.engine.service.directory import Directory
from evbus.engine.service.settings import ChannelSettings
from evbus.errors import ServiceCommunicationError, ServiceError
from tests.dispatch.rig import until

GONE = "the registry consul cannot tell where the component 'shop' is: OSError: gone"


class Told:
    """A registry that tells what a test gives it: addresses, or an exception; None ends it."""

    def __init__(self, *first: Any) -> None:
        self.news: asyncio.Queue[Any] = asyncio.Queue()
        self.asked: list[str] = []
        for one in first:
            self.news.put_nowait(one)

    async def watch(self, component: str) -> AsyncGenerator[Iterable[ChannelAddress], None]:
        self.asked.append(component)
        while (found := await self.news.get()) is not None:
            if isinstance(found, Exception):
                raise found
            yield [ChannelAddress("wire", uri) for uri in found]


def directory(told: Told, components: Any = None) -> Directory:
    return Directory(told.watch, lambda name: ChannelSettings(), "consul", components)


async def uris(found: Directory) -> list[str]:
    return [one.uri for one in (await found.find("shop")).channels["wire"]]


async def test_a_component_is_looked_for_once_and_followed() -> None:
    told = Told()
    found = directory(told)
    asking = [asyncio.ensure_future(uris(found)) for _ in range(5)]
    told.news.put_nowait(["a"])
    assert await asyncio.gather(*asking) == [["a"]] * 5
    told.news.put_nowait(["b", "c"])
    await until(told.news.empty)
    await asyncio.sleep(0)
    assert await uris(found) == ["b", "c"]
    assert told.asked == ["shop"]
    assert list(found.known()) == ["shop"]
    await found.close()
    assert not found.known()


async def test_what_nothing_is_told_of_is_not_there_and_may_come() -> None:
    async def components() -> list[str]:
        return ["shops", "bank"]

    told = Told(None)
    found = directory(told, components)
    with pytest.raises(ServiceError, match="consul has no component 'shop'; did you mean 'shops'?"):
        await uris(found)
    told.news.put_nowait(["a"])
    assert await uris(found) == ["a"]
    await found.close()


async def test_a_registry_that_is_away_fails_the_call_and_is_asked_again_by_the_next() -> None:
    told = Told(OSError("no route to http://joe:geheim@consul"))
    found = directory(told)
    with pytest.raises(ServiceCommunicationError) as problem:
        await uris(found)
    assert str(problem.value) == (
        "the registry consul cannot tell where the component 'shop' is: OSError: no route to http://joe:***@consul"
    )
    told.news.put_nowait(["a"])
    assert await uris(found) == ["a"]
    await found.close()


async def test_a_registry_that_goes_away_leaves_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "evbus.service")
    told = Told(["a"], OSError("gone"), OSError("gone"), ["b"])
    found = directory(told)
    assert await uris(found) == ["a"]
    await until(lambda: len(told.asked) == 3 and told.news.empty())
    await until(lambda: [one.uri for one in found.known()["shop"].channels["wire"]] == ["b"])
    (said,) = caplog.messages
    assert said == (
        "the registry consul cannot tell where the component 'shop' is: OSError: gone; what is known of it "
        "stays"
    )
    await found.close()


async def test_a_registry_that_fails_again_and_again_is_told_once_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "evbus.service")
    # What comes later than this is no answer that it gives between two failures.
    monkeypatch.setattr("evbus.engine.service.directory.PAUSE", (0.001, 0.2))
    told = Told(["a"], *[one for _ in range(10) for one in (["b"], OSError("gone"))], ["c"])
    found = directory(told)
    await found.find("shop")
    await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == [
        f"{GONE}; what is known of it stays",
        "the registry consul tells again where the component 'shop' is",
    ]
    assert len(told.asked) == 11
    assert await uris(found) == ["c"]
    await found.close()


async def test_a_registry_that_comes_back_empty_leaves_what_is_known_and_is_asked_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def components() -> list[str]:
        return []

    caplog.set_level(logging.WARNING, "evbus.service")
    monkeypatch.setattr("evbus.engine.service.directory.PAUSE", (0.001, 0.01))
    told = Told(["a"], OSError("gone"), None, None)
    found = directory(told, components)
    assert await uris(found) == ["a"]
    await until(lambda: len(told.asked) == 4)
    assert await uris(found) == ["a"]
    told.news.put_nowait(["b"])
    await until(lambda: [one.uri for one in found.known()["shop"].channels["wire"]] == ["b"])
    await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == [
        f"{GONE}; what is known of it stays",
        "the registry consul tells again where the component 'shop' is",
    ]
    assert told.asked == ["shop"] * 4
    await found.close()


async def test_who_stops_waiting_leaves_the_others() -> None:
    told = Told()
    found = directory(told)
    first, second = (asyncio.ensure_future(uris(found)) for _ in range(2))
    await until(lambda: told.asked)
    first.cancel()
    await asyncio.wait([first])
    told.news.put_nowait(["a"])
    assert await second == ["a"]
    await found.close()
