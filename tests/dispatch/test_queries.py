"""Queries on the hub: each is answered by exactly one handler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.api import RequestRouter
from evbus.errors import HandlerDoesNotExist, HandlerExists
from tests.dispatch.hub_kit import UserQuery, failure, started


async def answer(query: UserQuery) -> str:
    return query.name


async def test_many_queries_are_answered_at_once(hub: Any) -> None:
    arrived = asyncio.Event()
    waiting = 0

    @hub.dispatch.queries.register(UserQuery)
    async def meet(query: UserQuery) -> str:
        nonlocal waiting
        waiting += 1
        if waiting == 50:
            arrived.set()
        await arrived.wait()
        return query.name

    async with started(hub) as dp:
        queries = [UserQuery(str(number)) for number in range(50)]
        assert (await asyncio.gather(*(dp.queries.handle(query, None, True) for query in queries))) == [
            str(number) for number in range(50)
        ]


async def test_a_query_without_a_handler_is_told_with_the_nearest(hub: Any) -> None:
    hub.dispatch.queries.bind(UserQuery, answer)
    hub.dispatch.queries.bind("users by name", answer, argname="query")

    async with started(hub) as dp:
        with pytest.raises(HandlerDoesNotExist) as caught:
            await dp.queries.handle("users by nam", wait_for_response=True)
    assert str(caught.value) == (
        "queries: there is no handler for users by nam; did you mean 'users by name'?"
    )


def test_a_router_with_handlers_is_not_replaced(hub: Any) -> None:
    hub.dispatch.queries.bind(UserQuery, answer)
    assert failure(HandlerExists, hub.dispatch.init.use, queries_router_cls=RequestRouter) == (
        "the router of queries has handlers already, which would be lost; replace it first"
    )


async def test_a_query_within_a_query_needs_no_worker_of_its_own(hub: Any) -> None:
    @hub.dispatch.queries.register("outer")
    async def outer(hub: Any) -> str:
        return await hub.dispatch.queries.handle(UserQuery("inner"), "key", True)

    hub.dispatch.queries.bind(UserQuery, answer)

    async with started(hub, engine_workers=1) as dp:
        assert await dp.queries.handle("outer", wait_for_response=True) == "inner"
