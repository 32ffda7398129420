"""The examples of iambus, with ``hub.dispatch`` in place of its ``dispatcher``."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from evbus.api import (
    AbstractHandler,
    Dispatcher,
    EventRouter,
    Factory,
    HandlerProtocol,
    RequestRouter,
    Singleton,
)
from evbus.errors import HandlerExists, RouterFrozen
from tests.dispatch.hub_kit import CreateUser, Repo, User, UserCreated, UserQuery, started


class CustomRequestRouter(RequestRouter):
    """One that counts what is bound."""

    bound = 0

    def bind(
        self,
        message: Any,
        handler: Any,
        argname: str | None = None,
        response_event: Any = None,
        **initkwargs: Any,
    ) -> Any:
        self.bound += 1
        return super().bind(message, handler, argname, response_event, **initkwargs)


async def user_query(query: UserQuery) -> User:
    return User(query.name)


async def test_the_dispatcher_is_there_and_each_router_has_its_class(hub: Any) -> None:
    assert type(hub.dispatch.DISPATCHER.queries) is RequestRouter
    hub.dispatch.init.use(queries_router_cls=CustomRequestRouter)
    hub.dispatch.queries.bind(UserQuery, user_query)
    hub.dispatch.queries.register("all")(user_query)
    assert hub.dispatch.DISPATCHER.queries.bound == 2
    assert type(hub.dispatch.DISPATCHER.commands) is RequestRouter

    async with started(hub) as dp:
        assert await dp.handle(UserQuery("bob"), wait_for_response=True) == User("bob")


async def test_a_dispatcher_of_ones_own_takes_the_classes_of_its_routers() -> None:
    dp = Dispatcher(queries_router_cls=CustomRequestRouter)
    dp.queries.bind(UserQuery, user_query)
    assert dp.queries.bound == 1
    dp.start()
    try:
        assert await dp.handle(UserQuery("bob"), wait_for_response=True) == User("bob")
    finally:
        await dp.stop()


def test_the_routers_of_a_dispatcher_may_be_left_as_they_are() -> None:
    # None is the default of all three there.
    dp = Dispatcher(events_router_cls=None, commands_router_cls=None, queries_router_cls=CustomRequestRouter)
    assert [type(router) for router in dp.routers] == [EventRouter, RequestRouter, CustomRequestRouter]


async def test_a_handler_takes_one_argument_or_none(hub: Any) -> None:
    seen: list[Any] = []

    async def handler_with_arg(event: UserCreated) -> None:
        seen.append(event)

    async def handler_without_arg() -> None:
        seen.append(None)

    hub.dispatch.events.bind(UserCreated, handler_with_arg)
    hub.dispatch.events.bind(UserCreated, handler_without_arg)

    async with started(hub) as dp:
        await dp.events.handle(UserCreated("bob"))
    assert seen == [UserCreated("bob"), None]


async def test_argname_names_the_parameter_that_takes_the_message(hub: Any) -> None:
    async def create_user(repo: Any, cmd: Any, /) -> tuple[Any, Any]:
        return cmd, repo

    hub.dispatch.commands.bind(CreateUser, create_user, argname="cmd", repo=7)

    async with started(hub) as dp:
        assert await dp.handle(CreateUser("bob"), wait_for_response=True) == (CreateUser("bob"), 7)


class CustomHandler:
    def __init__(self, repo: Repo) -> None:
        self._repo = repo

    async def __call__(self, cmd: CreateUser) -> User:
        return await self._repo.create(cmd.name)


async def create_user_handler(cmd: CreateUser, repo: Repo) -> UserCreated:
    user = await repo.create(cmd.name)
    return UserCreated(user.name)


async def test_a_class_with_call_is_built_with_what_was_given(hub: Any) -> None:
    repo = Repo()
    hub.dispatch.commands.bind(CreateUser, handler=CustomHandler, repo=repo)

    async with started(hub) as dp:
        assert await dp.handle(CreateUser(), wait_for_response=True) == User("ann")
    assert repo.users == [User("ann")]


class Collecting:
    """The protocol written out: it keeps its events in itself."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._events: list[Any] = []

    async def handle(self, cmd: CreateUser, **kwargs: Any) -> User:
        await self.add_event(UserCreated(cmd.name))
        return await self._repo.create(cmd.name)

    async def add_event(self, event: Any) -> None:
        self._events.append(event)

    async def dump_events(self) -> list[Any]:
        events, self._events = self._events, []
        return events


class Short(AbstractHandler):
    """The same with the base class."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo

    async def handle(self, cmd: CreateUser) -> User:
        await self.add_event(UserCreated(cmd.name))
        return await self._repo.create(cmd.name)


@pytest.mark.parametrize("handler", [Collecting, Short])
async def test_a_class_of_the_protocol_sends_the_events_that_it_added(hub: Any, handler: Any) -> None:
    assert issubclass(handler, HandlerProtocol)
    seen = []

    @hub.dispatch.events.register(UserCreated)
    async def on_created(event: UserCreated) -> None:
        seen.append(event.name)

    hub.dispatch.commands.bind(CreateUser, handler, repo=Repo())

    async with started(hub) as dp:
        for name in ("ann", "bob"):
            assert await dp.handle(CreateUser(name), wait_for_response=True) == User(name)
    assert seen == ["ann", "bob"]


async def test_a_returned_event_is_forwarded(hub: Any) -> None:
    seen = []

    async def on_created(event: UserCreated) -> None:
        seen.append(event)

    user_repo = Repo()
    hub.dispatch.commands.bind(
        CreateUser, handler=create_user_handler, repo=user_repo, response_event=UserCreated
    )
    hub.dispatch.events.bind(UserCreated, on_created)

    async with started(hub) as dp:
        await dp.handle(CreateUser("bob"))
        await dp.handle(CreateUser("eve"), wait_for_response=True)
    assert sorted(event.name for event in seen) == ["bob", "eve"]
    assert len(user_repo.users) == 2


async def test_without_response_event_what_is_returned_is_only_returned(hub: Any) -> None:
    async def on_created(event: UserCreated) -> None:
        raise AssertionError(event)

    hub.dispatch.commands.bind(CreateUser, create_user_handler, repo=Repo())
    hub.dispatch.events.bind(UserCreated, on_created)

    async with started(hub) as dp:
        assert await dp.handle(CreateUser("bob"), wait_for_response=True) == UserCreated("bob")
    assert hub.dispatch.init.snapshot()["events"]["failed"] == 0


def test_a_double_binding_raises(hub: Any) -> None:
    dp = hub.dispatch
    dp.commands.bind(CreateUser, handler=create_user_handler, repo=Repo(), response_event=UserCreated)
    with pytest.raises(HandlerExists):
        dp.commands.bind(CreateUser, handler=CustomHandler, repo=Repo())
    assert dp.init.snapshot()["commands"]["handlers"] == 1


async def test_wait_for_response_returns_what_the_handler_returns(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, CustomHandler, repo=Repo())

    async with started(hub) as dp:
        created_user = await dp.handle(CreateUser(), wait_for_response=True)
        assert (created_user, await dp.handle(CreateUser())) == (User("ann"), None)


async def test_the_decorator_binds_and_leaves_the_function_as_it_is(hub: Any) -> None:
    seen = []

    @hub.dispatch.events.register(UserCreated)
    async def created(event: Any) -> None:
        seen.append(event)

    async with started(hub) as dp:
        await dp.events.handle(UserCreated())
        await created("by hand")
    assert sorted(seen, key=str) == [UserCreated(), "by hand"]


async def test_start_freezes_the_routers(hub: Any) -> None:
    hub.dispatch.start()
    for router in (hub.dispatch.events, hub.dispatch.commands, hub.dispatch.queries):
        with pytest.raises(RouterFrozen):
            router.bind(UserQuery, user_query)
        with pytest.raises(RouterFrozen):
            router.register(UserQuery)(user_query)
    await hub.dispatch.stop()


async def test_a_start_without_handlers_does_no_harm(hub: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "evbus.dispatch")

    async with started(hub) as dp:
        assert dp.init.running()
        await dp.events.handle(UserCreated())
    assert not hub.dispatch.init.running()
    assert [record.getMessage() for record in caplog.records] == [
        "events: there is no handler for UserCreated"
    ]


async def test_strings_are_messages_and_both_ways_of_sending_do_the_same(hub: Any) -> None:
    seen = []

    @hub.dispatch.events.register("on startup")
    async def on_startup(message: str) -> None:
        seen.append(message)

    async with started(hub) as dp:
        await dp.handle("on startup")
        await dp.events.handle("on startup")
        await dp.init.handle("on startup")
    assert seen == ["on startup"] * 3


def get_user_repo() -> Repo:
    return Repo()


async def get_user_repo_later() -> Repo:
    return Repo()


@pytest.mark.parametrize("get", [get_user_repo, get_user_repo_later])
async def test_a_singleton_is_made_once_and_a_factory_for_each_handler(hub: Any, get: Any) -> None:
    dp = hub.dispatch

    @dp.queries.register(UserQuery, repo=Singleton["repo":get])
    async def user_query_handler(query: UserQuery, repo: Repo) -> Repo:
        return repo

    @dp.queries.register("same", repo=Singleton["repo":get])
    async def same(repo: Repo) -> Repo:
        return repo

    @dp.queries.register("other", repo=Factory["other":get])
    async def other(repo: Repo) -> Repo:
        return repo

    @dp.queries.register("further", repo=Factory["other":get])
    async def further(repo: Repo) -> Repo:
        return repo

    async with started(hub):
        messages = (UserQuery(), UserQuery(), "same", "other", "other", "further")
        one, again, shared, made, kept, another = [
            await dp.handle(message, wait_for_response=True) for message in messages
        ]
    assert one is again is shared
    assert made is kept
    assert len({id(repo) for repo in (one, made, another)}) == 3
    assert [repo.closed for repo in (one, made, another)] == [1, 1, 1]


# The text as it stands, with its own names; only what its "..." stand for is written out.


class UserRepoImpl:
    """What the text calls a RepoType, and UserRepo."""

    async def create(self, data: str) -> str:
        return f"created {data}"


RepoType = UserRepo = UserRepoImpl


@dataclasses.dataclass
class CreateUserCommand:
    data: str


@dataclasses.dataclass
class Created:
    data: str


@dataclasses.dataclass
class BookQueryResult:
    found: str


class AsWritten:
    """The handler that is a class."""

    def __init__(self, repo: RepoType):
        self._repo = repo

    async def __call__(self, cmd: CreateUserCommand):  # type: ignore[no-untyped-def]
        user = await self._repo.create(cmd.data)
        return Created(data=user)


async def as_written(cmd: CreateUserCommand, repo: RepoType):  # type: ignore[no-untyped-def]
    user = await repo.create(cmd.data)
    return Created(data=user)


@pytest.mark.parametrize("handler", [AsWritten, as_written])
async def test_both_handlers_return_an_event_that_is_forwarded(hub: Any, handler: Any) -> None:
    dp, seen = hub.dispatch, []
    user_repo = UserRepoImpl()
    dp.commands.bind(CreateUserCommand, handler=handler, repo=user_repo, response_event=Created)

    @dp.events.register(Created)
    async def create_user_handler(event):  # type: ignore[no-untyped-def]
        seen.append(event)

    dp.start()
    await dp.handle(CreateUserCommand("ann"))
    assert await dp.handle(CreateUserCommand("bob"), wait_for_response=True) == Created("created bob")
    await dp.stop()
    assert sorted(event.data for event in seen) == ["created ann", "created bob"]


async def test_an_event_is_bound_as_a_command_is(hub: Any) -> None:
    dp, seen = hub.dispatch, []

    async def create_user_handler(event: Created) -> None:
        seen.append(event)

    dp.events.bind(Created, create_user_handler)

    dp.start()
    await dp.handle(Created("ann"))
    await dp.stop()
    assert seen == [Created("ann")]


async def test_a_query_takes_a_singleton(hub: Any) -> None:
    dp = hub.dispatch

    def get_user_repo() -> UserRepo:
        return UserRepoImpl()

    @dp.queries.register(UserQuery, repo=Singleton["repo":get_user_repo])
    async def book_query_handler(query: UserQuery, repo: UserRepo) -> BookQueryResult:
        return BookQueryResult(await repo.create(query.name))

    dp.start()
    assert await dp.handle(UserQuery("ann"), wait_for_response=True) == BookQueryResult("created ann")
    await dp.stop()
