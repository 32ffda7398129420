"""Commands on the hub: each has exactly one handler."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from evbus.errors import DispatchDeadlock, DispatchTimeout, HandlerDoesNotExist, HandlerExists
from tests.dispatch.hub_kit import CreateUser, UserQuery, failure, go, started


@dataclasses.dataclass(frozen=True)
class CreateAdmin(CreateUser):
    pass


def bound(hub: Any, kind: Any, name: str) -> None:
    async def handler(command: Any) -> str:
        return name

    hub.dispatch.commands.bind(kind, handler)


async def test_the_handler_of_the_nearest_base_has_the_command(hub: Any) -> None:
    bound(hub, object, "any")
    bound(hub, CreateUser, "user")

    async with started(hub) as dp:
        messages = (CreateAdmin(), CreateUser(), UserQuery(), "a string")
        assert [await dp.commands.handle(message, wait_for_response=True) for message in messages] == [
            "user",
            "user",
            "any",
            "any",
        ]


def test_a_second_handler_is_refused_and_the_first_stays(hub: Any) -> None:
    bound(hub, CreateUser, "first")
    assert "there is one already" in failure(HandlerExists, bound, hub, CreateUser, "second")
    bound(hub, CreateAdmin, "admin")

    async def main() -> list[str]:
        async with started(hub) as dp:
            return [
                await dp.commands.handle(message, wait_for_response=True)
                for message in (CreateUser(), CreateAdmin())
            ]

    assert go(main) == ["first", "admin"]


async def test_a_command_is_no_query(hub: Any) -> None:
    bound(hub, CreateUser, "user")

    async with started(hub) as dp:
        with pytest.raises(HandlerDoesNotExist, match="queries: there is no handler for CreateUser"):
            await dp.queries.handle(CreateUser())
        with pytest.raises(HandlerDoesNotExist, match="commands: there is no handler for UserQuery"):
            await dp.commands.handle(UserQuery())


async def test_what_the_handler_raises_is_raised_to_who_waits(hub: Any) -> None:
    @hub.dispatch.commands.register(CreateUser)
    async def create(command: CreateUser) -> None:
        raise LookupError(command.name)

    async with started(hub) as dp:
        with pytest.raises(LookupError, match="ann"):
            await dp.commands.handle(CreateUser(), wait_for_response=True)


async def test_a_caller_who_is_cancelled_cancels_the_handler(hub: Any) -> None:
    seen = []
    begun = asyncio.Event()

    @hub.dispatch.commands.register(CreateUser)
    async def create(command: CreateUser) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with started(hub) as dp:
        call = asyncio.ensure_future(dp.commands.handle(CreateUser(), wait_for_response=True))
        await begun.wait()
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()
    assert seen == ["cancelled"]


async def test_a_timeout_counts_from_when_it_is_handed_over(hub: Any) -> None:
    @hub.dispatch.commands.register(CreateUser)
    async def create(command: CreateUser) -> None:
        await asyncio.Event().wait()

    async with started(hub, engine_workers=1) as dp:
        await dp.commands.handle(CreateUser("first"), timeout=0.05)
        with pytest.raises(DispatchTimeout):
            await dp.commands.handle(CreateUser("waits for its turn"), "k", True, 0.01)
    assert hub.dispatch.init.snapshot()["commands"]["running"] == 0


async def test_a_handler_that_waits_for_its_own_key_is_told(hub: Any) -> None:
    @hub.dispatch.commands.register(CreateUser)
    async def create(hub: Any, command: CreateUser) -> None:
        await hub.dispatch.commands.handle(CreateAdmin(), key="k", wait_for_response=True)

    async with started(hub) as dp:
        with pytest.raises(DispatchDeadlock) as caught:
            await dp.commands.handle(CreateUser(), key="k", wait_for_response=True)
    assert str(caught.value) == (
        "commands: CreateAdmin with the key 'k' is to be handled within a handler that holds this key, "
        "or waits for one that does, so neither could ever end; hand it over without "
        "wait_for_response, or with another key"
    )


async def test_a_handler_may_hand_over_another_of_its_key_for_later(hub: Any) -> None:
    seen = []

    @hub.dispatch.commands.register(CreateUser)
    async def create(hub: Any, command: CreateUser) -> None:
        if command.name == "ann":
            await hub.dispatch.commands.handle(CreateUser("bob"), key="k")
        seen.append(command.name)

    async with started(hub) as dp:
        await dp.commands.handle(CreateUser(), key="k", wait_for_response=True)
    assert seen == ["ann", "bob"]
