"""Events, commands and queries on the hub."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

import msgspec
import pytest

from evbus.api import RequestRouter
from evbus.errors import (
    DispatchDeadlock,
    DispatcherNotStarted,
    DispatchError,
    DispatchTimeout,
    HandlerDoesNotExist,
    HandlerExists,
    HandlerSignatureError,
)
from tests.dispatch.hub_kit import CreateUser, UserCreated, UserQuery, failure, go, started
from tests.evbus.kit import bodies, running

ANYWHERE = {"internal": {"*": {}}}


@dataclasses.dataclass(frozen=True)
class AdminCreated(UserCreated):
    rights: tuple[str, ...] = ()


class Struct(msgspec.Struct):
    at: int


class Plain:
    """It cannot travel."""


async def test_an_event_goes_to_all_handlers_of_its_class_and_its_bases(hub: Any) -> None:
    seen = []
    for kind in (object, UserCreated, AdminCreated):

        @hub.dispatch.events.register(kind)
        async def handler(event: Any, kind: Any = kind) -> None:
            seen.append(kind)

    async with started(hub) as dp:
        assert await dp.events.handle(AdminCreated()) is None
        assert await dp.events.handle(UserCreated(), wait_for_response=True) is None
    assert sorted(kind.__name__ for kind in seen) == [
        "AdminCreated",
        *["UserCreated"] * 2,
        *["object"] * 2,
    ]


async def test_the_first_failure_is_raised_when_all_have_ended(
    hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    @hub.dispatch.events.register(UserCreated)
    async def first() -> None:
        raise LookupError("first")

    @hub.dispatch.events.register(UserCreated)
    async def second() -> None:
        await asyncio.sleep(0)
        raise LookupError("second")

    @hub.dispatch.events.register(UserCreated)
    async def third() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        ended.append("third")

    async with started(hub) as dp:
        with pytest.raises(LookupError, match="first"):
            await dp.events.handle(UserCreated(), wait_for_response=True)
        assert ended == ["third"]
    assert caplog.text.count("failed: LookupError: second") == 1


async def test_an_event_that_nobody_handles_is_counted_and_told_once(
    hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evbus.dispatch")

    async with started(hub) as dp:
        for _ in range(3):
            await dp.events.handle(UserCreated())
    assert [record.getMessage() for record in caplog.records] == [
        "events: there is no handler for UserCreated"
    ]
    assert hub.dispatch.init.snapshot()["events"]["without_handler"] == 3


async def test_a_handler_adds_events_that_are_sent_when_it_has_succeeded(hub: Any) -> None:
    seen = []

    @hub.dispatch.commands.register("create")
    async def create(hub: Any) -> None:
        hub.dispatch.events.add_event(UserCreated("bob"))
        assert seen == []

    @hub.dispatch.commands.register("fail")
    async def fail(hub: Any) -> None:
        hub.dispatch.events.add_event(UserCreated("eve"))
        raise LookupError

    @hub.dispatch.events.register(UserCreated)
    async def created(event: UserCreated) -> None:
        seen.append(event.name)

    async with started(hub) as dp:
        await dp.handle("create", wait_for_response=True)
        with pytest.raises(LookupError):
            await dp.handle("fail", wait_for_response=True)
    assert seen == ["bob"]


def test_an_event_is_added_within_a_handler_only(hub: Any) -> None:
    assert failure(DispatchError, hub.dispatch.events.add_event, UserCreated()) == (
        "events are added while a message is handled; elsewhere send them by hub.dispatch.events.handle"
    )


# To the bus as well


async def published(hub: Any, key: str, count: int = 1) -> list[bytes]:
    """Return what arrived in an internal queue, and that it is all."""
    found = await bodies(hub, key, count)
    assert (await hub.ingress.internal.get(key)).empty()
    return found


@pytest.mark.parametrize("handled", [True, False])
async def test_an_event_that_is_bound_to_a_profile_goes_to_the_bus_as_well(hub: Any, handled: bool) -> None:
    seen = []

    async def handler(event: UserCreated) -> None:
        seen.append(event)

    if handled:
        hub.dispatch.events.bind(UserCreated, handler, publish_to="users")
    else:
        hub.dispatch.events.bind(UserCreated, publish_to="users")

    async with running(hub, {"internal": {"users": {}}}), started(hub) as dp:
        await dp.handle(UserCreated("bob"))
    assert await published(hub, "UserCreated") == [b'{"name":"bob"}']
    assert seen == ([UserCreated("bob")] if handled else [])


async def test_the_decorator_takes_publish_to_too(hub: Any) -> None:
    @hub.dispatch.events.register(Struct, publish_to="users")
    async def handler(event: Struct) -> None:
        pass

    async with running(hub, ANYWHERE), started(hub) as dp:
        await dp.handle(Struct(7))
    assert await published(hub, "Struct") == [b'{"at":7}']


async def test_what_is_put_on_the_bus_names_the_event_and_has_its_headers(hub: Any) -> None:
    hub.dispatch.events.bind(UserCreated, publish_to="users")
    hub.dispatch.events.bind("on startup", publish_to="users")

    async with started(hub) as dp:
        await dp.handle(UserCreated("bob"), headers={"x-tenant": "acme"})
        await dp.handle("on startup")
    event, startup = [await hub.evbus.broker.get() for _ in range(2)]
    assert (event.profile, event.routing_key, event.body) == ("users", "UserCreated", b'{"name":"bob"}')
    assert event.headers == {
        "content-type": "application/json",
        "evbus-message": "UserCreated",
        "x-tenant": "acme",
    }
    assert (startup.profile, startup.routing_key, startup.body) == ("users", "on startup", b"null")
    assert startup.headers["evbus-message"] == "on startup"


async def test_a_base_and_its_subclass_go_to_one_profile_once(hub: Any) -> None:
    hub.dispatch.events.bind(UserCreated, publish_to="users")
    hub.dispatch.events.bind(AdminCreated, publish_to="users")
    hub.dispatch.events.bind(AdminCreated, publish_to="users")
    hub.dispatch.events.bind(AdminCreated, publish_to="admins")

    admin = b'{"name":"bob","rights":[]}'
    async with (
        running(hub, {"internal": {"users": {"routing_key": "u"}, "admins": {"routing_key": "a"}}}),
        started(hub) as dp,
    ):
        await dp.handle(AdminCreated("bob"))
        await dp.handle(UserCreated("eve"))
    assert sorted([*await published(hub, "u", 2), *await published(hub, "a")]) == sorted(
        [admin, b'{"name":"eve"}', admin]
    )


def test_one_event_may_be_published_when_it_is_handed_over(hub: Any) -> None:
    hub.dispatch.events.bind(UserCreated, publish_to="users")

    async def main() -> list[Any]:
        async with started(hub) as dp:
            await dp.events.handle(UserCreated("to users"), publish_to="users")
            await dp.events.handle(UserCreated("to both"), publish_to="others", headers={"a": "b"})
            await dp.events.handle("unhandled", publish_to="others")
        return [await hub.evbus.broker.get() for _ in range(hub.evbus.BUS.qsize())]

    found = sorted((event.profile, event.body.decode(), event.headers.get("a")) for event in go(main))
    assert found == [
        ("others", "null", None),
        ("others", '{"name":"to both"}', "b"),
        ("users", '{"name":"to both"}', "b"),
        ("users", '{"name":"to users"}', None),
    ]
    assert hub.dispatch.init.snapshot()["events"]["without_handler"] == 0


def test_nothing_is_published_by_a_dispatcher_that_does_not_run(hub: Any) -> None:
    assert failure(DispatcherNotStarted, hub.dispatch.events.handle, UserCreated(), publish_to="users")
    assert hub.evbus.BUS.qsize() == 0


async def test_a_class_that_is_sent_itself_is_published_by_its_name(hub: Any) -> None:
    async with started(hub) as dp:
        await dp.events.handle(UserCreated, publish_to="users")
    event = await hub.evbus.broker.get()
    assert (event.routing_key, event.body) == ("UserCreated", b"null")


async def test_an_event_may_be_published_and_handed_to_nobody(hub: Any) -> None:
    @hub.dispatch.events.register(UserCreated)
    async def handler() -> None:
        raise AssertionError

    async with started(hub) as dp:
        await dp.events.publish(UserCreated("bob"), "users", headers={"a": "b"})
    event = await hub.evbus.broker.get()
    assert (event.profile, event.routing_key, event.headers["a"]) == ("users", "UserCreated", "b")
    assert hub.dispatch.init.snapshot()["events"]["failed"] == 0


def test_an_event_that_cannot_travel_is_refused_when_it_is_bound(hub: Any) -> None:
    async def handler(event: Plain) -> None:
        pass

    with pytest.raises(HandlerSignatureError):
        hub.dispatch.events.bind(Plain, handler, publish_to="users")
    assert hub.dispatch.init.snapshot()["events"]["handlers"] == 0
    assert failure(HandlerSignatureError, hub.dispatch.events.bind, Plain, publish_to="users") == (
        "Plain cannot be published to 'users': its instances cannot travel; make it a dataclass, a msgspec "
        "Struct, an attrs class or a pydantic model"
    )


@pytest.mark.parametrize("profile", ["", 5])
def test_a_profile_is_a_name(hub: Any, profile: Any) -> None:
    assert failure(HandlerSignatureError, hub.dispatch.events.bind, UserCreated, publish_to=profile) == (
        f"publish_to of UserCreated is the name of a profile, and not {profile!r}"
    )


def test_without_publish_to_there_has_to_be_a_handler(hub: Any) -> None:
    assert failure(HandlerDoesNotExist, hub.dispatch.events.bind, UserCreated) == (
        "None was bound to UserCreated; bind an `async def` function"
    )


# Commands on the hub: each has exactly one handler.


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


# Queries on the hub: each is answered by exactly one handler.


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
