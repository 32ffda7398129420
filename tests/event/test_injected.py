"""What listeners take beside the event: what hub.dispatch.init.provide knows by its type."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from evbus.api import EventListener, Factory, Singleton
from evbus.errors import HandlerSignatureError
from tests.evbus.kit import running, states, write
from tests.event.kit import INTERNAL, SOON, Got, OrderPlaced, failure, listening, new_hub, send, settled


class Repo:
    """Counts what is made, and what is closed."""

    made = 0
    closed = 0

    def __init__(self) -> None:
        self.seen: list[Any] = []
        Repo.made += 1

    async def aclose(self) -> None:
        Repo.closed += 1


class Mailer:
    pass


@pytest.fixture(autouse=True)
def none_made() -> None:
    Repo.made = Repo.closed = 0


class Asynchronous(EventListener[OrderPlaced]):
    def __init__(self, hub: Any, repo: Repo, mailer: Mailer | None = None, text: str = "") -> None:
        assert hub.event is not None
        self.repo, self.mailer, self.text = repo, mailer, text

    async def on(self, event: OrderPlaced) -> None:
        self.repo.seen.append((event, self.mailer, self.text))


class Plain(Asynchronous):
    def on(self, event: OrderPlaced) -> None:  # type: ignore[override]
        self.repo.seen.append((event, self.mailer, self.text))


async def function(event: OrderPlaced, repo: Repo, mailer: Mailer | None = None) -> None:
    repo.seen.append((event, mailer, ""))


def plain_function(hub: Any, event: OrderPlaced, *, repo: Repo) -> None:
    repo.seen.append((event, None, ""))


LISTENERS = [Asynchronous, Plain, function, plain_function]


async def connect() -> Repo:
    return Repo()


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("early", [True, False])
async def test_a_value_is_given_by_its_type(listener: Any, early: bool) -> None:
    hub, repo = new_hub(), Repo()
    if early:
        hub.dispatch.init.provide(Repo, repo)
    hub.event.init.subscribe(OrderPlaced, listener)
    if not early:
        hub.dispatch.init.provide(Repo, repo)
    async with running(hub, INTERNAL):
        await hub.event.init.send(OrderPlaced())
        await settled(hub)
    assert repo.seen == [(OrderPlaced(), None, "")]
    # A value stays open: it is its maker's.
    assert (Repo.made, Repo.closed) == (1, 0)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("make", [Repo, connect])
async def test_a_singleton_is_made_at_the_start_shared_and_closed_at_the_stop(
    hub: Any, listener: Any, make: Any
) -> None:
    hub.dispatch.init.provide(Repo, Singleton["repo":make])
    for name in ("one", "two"):
        hub.event.init.subscribe(OrderPlaced, listener, name=name)
    for number in (1, 2):
        async with running(hub, INTERNAL):
            await send(hub, *(OrderPlaced() for _ in range(2)))
            await settled(hub)
            assert (Repo.made, Repo.closed) == (number, number - 1)
        assert (Repo.made, Repo.closed) == (number, number)
    assert [found["handled"] for found in hub.event.init.subscriptions()] == [4, 4]


async def test_a_factory_is_called_for_each_listener() -> None:
    async with listening() as hub:
        hub.dispatch.init.provide(Repo, Factory["repo":connect])
        for name in ("one", "two"):
            hub.event.init.subscribe(OrderPlaced, function, name=name)
        await send(hub, *(OrderPlaced() for _ in range(3)))
        await settled(hub)
        assert (Repo.made, Repo.closed) == (2, 0)
    assert (Repo.made, Repo.closed) == (2, 2)


async def test_handlers_and_listeners_share_what_is_made_until_both_have_ended() -> None:
    async def find(query: str, repo: Repo) -> Repo:
        return repo

    for listeners_first in (True, False):
        Repo.made = Repo.closed = 0
        hub = new_hub()
        hub.dispatch.init.provide(Repo, Singleton["repo":connect])
        hub.dispatch.queries.bind("find", find)
        hub.event.init.subscribe(OrderPlaced, function)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(running(hub, INTERNAL))
            hub.dispatch.init.start()
            await hub.event.init.send(OrderPlaced())
            await settled(hub)
            repo = await hub.dispatch.init.handle("find", wait_for_response=True)
            assert len(repo.seen) == 1
            if listeners_first:
                await hub.evbus.init.stop()
            else:
                await hub.dispatch.init.stop()
            assert (Repo.made, Repo.closed) == (1, 0)
            await hub.dispatch.init.stop()
        assert (Repo.made, Repo.closed) == (1, 1)


async def test_a_maker_that_fails_is_a_failed_attempt() -> None:
    tries = list[int]()

    async def connect_at_last() -> Repo:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return Repo()

    async with listening() as hub:
        hub.dispatch.init.provide(Repo, Singleton["repo":connect_at_last])
        hub.event.init.subscribe(OrderPlaced, function, retry=SOON)
        await hub.event.init.send(OrderPlaced())
        await settled(hub)
        (found,) = hub.event.init.subscriptions()
        assert (found["handled"], found["retried"], len(tries)) == (1, 2, 3)


def test_what_nobody_provides_is_told_at_the_start() -> None:
    said = (
        f"the handler {__name__}.function: nothing is provided for 'repo', a Repo; call "
        "hub.dispatch.init.provide(Repo, ...) before the bus starts"
    )

    async def start() -> None:
        async with running(hub, INTERNAL):
            pass

    hub = new_hub()
    hub.event.init.subscribe(OrderPlaced, function)
    assert failure(HandlerSignatureError, start) == said

    async def later() -> None:
        async with listening() as hub:
            hub.event.init.subscribe(OrderPlaced, Got().on, name="other")
            try:
                hub.event.init.subscribe(OrderPlaced, function)
            finally:
                assert [found["name"] for found in hub.event.init.subscriptions()] == ["other"]

    assert failure(HandlerSignatureError, later) == said


def test_the_event_comes_first(hub: Any) -> None:
    async def wrong(repo: Repo, event: OrderPlaced) -> None: ...

    hub.dispatch.init.provide(Repo, Repo())
    assert failure(HandlerSignatureError, hub.event.init.subscribe, OrderPlaced, wrong).endswith(
        "wrong: it takes (repo, event), and is called with the event first: (event, repo)"
    )


async def test_a_file_may_provide_what_it_takes(tmp_path: Path) -> None:
    text = (
        "from evbus.api import event_listener\n"
        "from tests.event.kit import OrderPlaced\n"
        "from tests.event.test_injected import Repo\n"
        "def __init__(hub):\n"
        "    hub.dispatch.init.provide(Repo, Repo())\n"
        "@event_listener(OrderPlaced)\n"
        "async def on(hub, event, repo: Repo):\n"
        "    hub.GOT = (event, type(repo))\n"
    )
    root = write(tmp_path / "plugins", listener__billing=text)

    async with listening(plugin_dirs=[str(root)]) as hub:
        await hub.event.init.send(OrderPlaced())
        await settled(hub)
    assert states(hub, "listener") == {"billing": "loaded"}
    event, kind = hub.GOT
    assert (event, kind) == (OrderPlaced(), Repo)


async def test_a_file_may_take_what_is_provided(tmp_path: Path) -> None:
    text = (
        "from evbus.api import EventListener, event_listener\n"
        "from tests.event.kit import OrderPlaced\n"
        "from tests.event.test_injected import Repo\n"
        "@event_listener(OrderPlaced)\n"
        "class Billing(EventListener[OrderPlaced]):\n"
        "    def __init__(self, repo: Repo):\n"
        "        self.repo = repo\n"
        "    async def on(self, event):\n"
        "        self.repo.seen.append(event)\n"
    )
    root = write(tmp_path / "plugins", listener__billing=text)

    repo, hub = Repo(), new_hub(plugin_dirs=[str(root)])
    hub.dispatch.init.provide(Repo, repo)
    async with running(hub, INTERNAL):
        await hub.event.init.send(OrderPlaced())
        await settled(hub)
    assert states(hub, "listener") == {"billing": "loaded"}
    assert repo.seen == [OrderPlaced()]
