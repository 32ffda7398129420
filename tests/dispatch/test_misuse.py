"""What is wrong is said in one sentence: what, of whom, and what would be right."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from evbus.api import AbstractHandler, EventRouter, Factory, RequestRouter, Singleton
from evbus.errors import (
    DispatchDeadlock,
    DispatcherNotStarted,
    DispatchError,
    DispatcherStopped,
    DispatchTimeout,
    HandlerDoesNotExist,
    HandlerError,
    HandlerExists,
    HandlerIsSync,
    HandlerSignatureError,
    InvalidHeader,
    RouterFrozen,
)
from tests.dispatch.hub_kit import CreateUser, Repo, User, UserCreated, UserQuery, failure, go, started

ME = __name__
SYNC = (
    "handlers are asynchronous; write `async def`, and run blocking code with `await asyncio.to_thread(...)`"
)


async def create(command: CreateUser) -> User:
    return User(command.name)


def sync(command: CreateUser) -> None: ...


async def generator(command: CreateUser) -> Any:
    yield command


async def two(first: Any, second: Any) -> None: ...


async def alike(first: CreateUser, second: CreateUser) -> None: ...


async def other(query: UserQuery) -> None: ...


async def one(command: CreateUser, repo: Repo) -> None: ...


class SyncCall:
    def __call__(self, command: CreateUser) -> None: ...


class Nothing:
    pass


class Needs:
    def __init__(self, url: str) -> None: ...

    async def __call__(self, command: CreateUser) -> None: ...


class Unfinished(AbstractHandler):
    pass


def make_repo() -> Repo:
    return Repo()


BINDINGS = [
    (
        HandlerDoesNotExist,
        (CreateUser, None),
        {},
        "None was bound to CreateUser; bind an `async def` function",
    ),
    (
        HandlerIsSync,
        (CreateUser, sync),
        {},
        f"the handler {ME}.sync of CreateUser: it is a plain function, and {SYNC}",
    ),
    (
        HandlerIsSync,
        (CreateUser, SyncCall),
        {},
        f"the handler {ME}.SyncCall of CreateUser: its __call__ is a plain function, and {SYNC}",
    ),
    (
        HandlerSignatureError,
        (CreateUser, generator),
        {},
        (
            f"the handler {ME}.generator of CreateUser: it is an async generator, and a handler ends "
            "with one result; write `return` in place of `yield`, and send events for the rest"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, two),
        {},
        (
            f"the handler {ME}.two of CreateUser: ambiguous argument: 'first' or 'second' could take "
            "the message; name the one that does with argname='first', and give the rest when binding"
            " (second=...)"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, alike),
        {},
        (
            f"the handler {ME}.alike of CreateUser: ambiguous argument: 'first' and 'second' are all "
            "annotated as the message; name the one with argname='first', and give the rest when "
            "binding (second=...)"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, other),
        {},
        (
            f"the handler {ME}.other of CreateUser: ambiguous argument: 'query' is annotated "
            "UserQuery, which no CreateUser is; if it takes the message, say argname='query', else "
            "give it when binding (query=...)"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, create, "comand"),
        {},
        (
            f"the handler {ME}.create of CreateUser: it has no parameter 'comand' to take the message;"
            " did you mean 'command'?"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, create),
        {"repo": 1},
        f"the handler {ME}.create of CreateUser: it has no parameter 'repo'; bind it without",
    ),
    (
        HandlerSignatureError,
        (CreateUser, Nothing),
        {},
        (
            f"the handler {ME}.Nothing of CreateUser: it is no `async def` function and has neither "
            "`async def __call__` nor `async def handle`; write one of them"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, Needs),
        {},
        (
            f"the handler {ME}.Needs of CreateUser: its constructor needs 'url'; give that when "
            "binding (url=...)"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, Unfinished),
        {},
        (
            f"the handler {ME}.Unfinished of CreateUser: it leaves out 'handle' and cannot be built; "
            "bind a class that has every method"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, create, None, UserCreated),
        {},
        (
            f"the handler {ME}.create of CreateUser: it returns User, which is never the "
            "response_event UserCreated; return that, or bind it without response_event"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, create, None, "UserCreated"),
        {},
        (
            f"the handler {ME}.create of CreateUser: response_event must be a class or a tuple of "
            "classes, not 'UserCreated'"
        ),
    ),
    (
        HandlerSignatureError,
        (CreateUser, one),
        {"repo": Singleton},
        (
            f"the handler {ME}.one of CreateUser: Singleton alone makes nothing; write "
            'repo=Singleton["name": function]'
        ),
    ),
    (
        HandlerSignatureError,
        (7, create),
        {},
        "a message is a class or a string that is not empty, not 7; bind one of those",
    ),
    (
        HandlerSignatureError,
        ("", create),
        {},
        "a message is a class or a string that is not empty, not ''; bind one of those",
    ),
]


@pytest.mark.parametrize("router", ["events", "commands", "queries"])
@pytest.mark.parametrize(("kind", "arguments", "given", "sentence"), BINDINGS)
def test_a_handler_that_cannot_be_bound_is_told_when_it_is_bound(
    hub: Any, router: str, kind: type[HandlerError], arguments: Any, given: Any, sentence: str
) -> None:
    assert failure(kind, getattr(hub.dispatch, router).bind, *arguments, **given) == sentence
    assert hub.dispatch.init.snapshot()[router]["handlers"] == 0


def test_a_coroutine_in_place_of_its_function_is_told(hub: Any) -> None:
    assert failure(HandlerSignatureError, hub.dispatch.commands.bind, CreateUser, create(CreateUser())) == (
        "the handler create of CreateUser: it was called already; bind the function itself, without "
        "parentheses"
    )


@pytest.mark.parametrize("router", ["commands", "queries"])
def test_a_second_handler_is_refused_and_does_not_replace_the_first(hub: Any, router: str) -> None:
    face = getattr(hub.dispatch, router)
    face.bind(CreateUser, create)

    async def usurper(command: CreateUser) -> None: ...

    assert failure(HandlerExists, face.bind, CreateUser, usurper) == (
        f"the handler {ME}.{usurper.__qualname__} of CreateUser: there is one already, {ME}.create, and a "
        f"message of {router} has exactly one"
    )
    assert failure(HandlerExists, face.register(CreateUser), usurper)
    assert failure(HandlerExists, face.bind, CreateUser, create)

    async def main() -> Any:
        async with started(hub):
            return await face.handle(CreateUser(), wait_for_response=True)

    assert go(main) == User("ann")


def test_the_same_handler_of_an_event_twice_is_refused(hub: Any) -> None:
    hub.dispatch.events.bind(CreateUser, create)
    assert failure(HandlerExists, hub.dispatch.events.bind, CreateUser, create) == (
        f"the handler {ME}.create of CreateUser: it is bound to this event already, and would be called twice"
    )


@pytest.mark.parametrize("router", ["events", "commands", "queries"])
def test_a_frozen_router_takes_no_handler(hub: Any, router: str) -> None:
    sentence = (
        f"the handler {ME}.create of CreateUser: the dispatcher is started and its routers are frozen; bind "
        "before the start"
    )

    async def main() -> None:
        async with started(hub):
            with pytest.raises(RouterFrozen) as caught:
                getattr(hub.dispatch, router).bind(CreateUser, create)
            assert str(caught.value) == sentence

    go(main)
    assert failure(RouterFrozen, getattr(hub.dispatch, router).bind, CreateUser, create) == sentence


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (UserQuery(), "there is no handler for UserQuery; known: CreateUser, greet"),
        ("gret", "there is no handler for gret; did you mean 'greet'?"),
        (None, "there is no handler for NoneType; known: CreateUser, greet"),
    ],
)
async def test_a_message_without_a_handler_is_told(hub: Any, message: Any, sentence: str) -> None:
    hub.dispatch.commands.bind(CreateUser, create)
    hub.dispatch.queries.bind("greet", create)

    async with started(hub):
        for waits in (False, True):
            with pytest.raises(HandlerDoesNotExist) as caught:
                await hub.dispatch.handle(message, wait_for_response=waits)
            assert str(caught.value) == sentence


async def test_a_message_of_two_routers_is_told(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, create)
    hub.dispatch.events.bind(CreateUser, create)

    async with started(hub):
        with pytest.raises(DispatchError) as caught:
            await hub.dispatch.handle(CreateUser())
        assert str(caught.value) == (
            "CreateUser is bound in events and in commands; say which is meant, as by "
            "hub.dispatch.events.handle"
        )


def test_a_dispatcher_that_does_not_run_says_what_to_do(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, create)
    not_started = "the dispatcher is not started; call hub.dispatch.init.start() first"
    stopped = "the dispatcher was stopped and handles no new messages; start it again first"
    handle = hub.dispatch.handle
    assert failure(DispatcherNotStarted, handle, CreateUser()) == not_started
    assert failure(DispatcherNotStarted, hub.dispatch.wait_for_shutdown) == not_started

    async def main() -> None:
        async with started(hub):
            with pytest.raises(DispatchError) as caught:
                hub.dispatch.start()
            assert (
                str(caught.value) == "the dispatcher is started already; stop it before it is started again"
            )

    go(main)
    assert failure(DispatcherStopped, handle, CreateUser()) == stopped
    assert failure(DispatcherStopped, hub.dispatch.wait_for_shutdown) == stopped


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("nan")])
async def test_a_timeout_is_a_number_of_seconds(hub: Any, timeout: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, create)

    async with started(hub):
        with pytest.raises(ValueError, match="timeout is a number of seconds") as caught:
            await hub.dispatch.handle(CreateUser(), wait_for_response=True, timeout=timeout)
        assert str(caught.value) == (
            f"timeout is a number of seconds above 0, or None for no limit, and not {timeout!r}"
        )


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        (
            TypeError,
            {"key": ["a", "list"]},
            "key is something hashable, such as a string or a number, and no list",
        ),
        (InvalidHeader, {"headers": ["a"]}, "headers are a mapping of strings to strings, not list"),
        (
            InvalidHeader,
            {"headers": {"a": 2}},
            "headers are a mapping of strings to strings; 'a' is a str with a int",
        ),
    ],
)
@pytest.mark.parametrize("waits", [True, False])
def test_keys_and_headers_that_are_none_are_told_to_the_sender(
    hub: Any, kind: type[Exception], given: dict[str, Any], sentence: str, waits: bool
) -> None:
    hub.dispatch.commands.bind(CreateUser, create)

    async def main() -> None:
        async with started(hub):
            with pytest.raises(kind) as caught:
                await hub.dispatch.handle(CreateUser(), wait_for_response=waits, **given)
            assert str(caught.value) == sentence

    go(main)


async def test_what_takes_too_long_is_told_with_its_limit(hub: Any) -> None:
    async def for_ever(command: CreateUser) -> None:
        await asyncio.Event().wait()

    hub.dispatch.commands.bind(CreateUser, for_ever)

    async with started(hub):
        with pytest.raises(TimeoutError) as caught:
            await hub.dispatch.handle(CreateUser(), wait_for_response=True, timeout=0.01)
    assert type(caught.value) is DispatchTimeout
    assert str(caught.value) == "CreateUser was not handled within 0.01 s"


async def test_a_message_that_would_wait_for_itself_is_told(hub: Any) -> None:
    async def again(hub: Any, command: CreateUser) -> None:
        await hub.dispatch.handle(CreateUser(), key=7, wait_for_response=True)

    hub.dispatch.commands.bind(CreateUser, again)

    async with started(hub):
        with pytest.raises(DispatchDeadlock) as caught:
            await hub.dispatch.handle(CreateUser(), key=7, wait_for_response=True)
    assert str(caught.value) == (
        "commands: CreateUser with the key 7 is to be handled within a handler that holds this key, or "
        "waits for one that does, so neither could ever end; hand it over without wait_for_response, or "
        "with another key"
    )


def test_a_router_that_has_handlers_is_not_replaced(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, create)
    assert failure(HandlerExists, hub.dispatch.init.use, commands_router_cls=RequestRouter) == (
        "the router of commands has handlers already, which would be lost; replace it first"
    )


@pytest.mark.parametrize("cls", [5, object, EventRouter])
def test_a_router_is_replaced_by_a_router_of_its_kind(hub: Any, cls: Any) -> None:
    before = hub.dispatch.DISPATCHER.routers
    replace = hub.dispatch.init.use
    sentence = failure(HandlerError, replace, events_router_cls=EventRouter, queries_router_cls=cls)
    assert sentence == f"the router of queries is a subclass of RequestRouter, and not {cls!r}"
    assert hub.dispatch.DISPATCHER.routers == before


def test_only_the_main_thread_waits_for_signals(hub: Any) -> None:
    async def main() -> None:
        async with started(hub) as dp:
            with pytest.raises(DispatchError) as caught:
                await dp.wait_for_shutdown()
            assert dp.init.running()
        assert str(caught.value) == (
            "only the main thread can wait for signals; await wait_for_shutdown there, or have another "
            "thread stop this loop's dispatcher with asyncio.run_coroutine_threadsafe(...stop(), loop)"
        )

    with ThreadPoolExecutor(1) as pool:
        pool.submit(go, main).result()


def test_a_type_is_provided_once(hub: Any) -> None:
    hub.dispatch.init.provide(Repo, Repo())
    assert failure(HandlerSignatureError, hub.dispatch.init.provide, Repo, Singleton["repo":make_repo]) == (
        "Repo is provided already, by a Repo, and cannot be provided by Singleton['repo': "
        f"{ME}.make_repo] as well; provide it once"
    )
    assert failure(HandlerSignatureError, hub.dispatch.init.provide, "repo", 1) == (
        "only a class can be provided, and 'repo' is none; give its class"
    )


def test_a_name_stands_for_one_provider(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, one, repo=Singleton["repo":make_repo])
    assert failure(
        HandlerSignatureError, hub.dispatch.queries.bind, CreateUser, one, repo=Factory["repo":make_repo]
    ) == (
        f"the name 'repo' is taken by Singleton['repo': {ME}.make_repo], and cannot be Factory['repo': "
        f"{ME}.make_repo] as well; give one of them another name"
    )


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (
            lambda: Singleton["repo"],
            'Singleton[...] needs a name and a function; write Singleton["name": function]',
        ),
        (
            lambda: Singleton[5:make_repo],
            'Singleton[...] needs a string as its name; write Singleton["name": function]',
        ),
        (
            lambda: Factory["repo":5],
            "Factory['repo': ...] needs a function, not a int; write Factory[\"name\": function]",
        ),
    ],
)
def test_a_provider_that_is_written_wrongly_shows_how_it_is_written(write: Any, sentence: str) -> None:
    assert failure(HandlerSignatureError, write) == sentence


def test_an_event_is_added_while_a_message_is_handled(hub: Any) -> None:
    assert failure(DispatchError, hub.dispatch.events.add_event, UserCreated()) == (
        "events are added while a message is handled; elsewhere send them by hub.dispatch.events.handle"
    )


async def test_many_keys_leave_no_task_behind(hub: Any) -> None:
    hub.dispatch.commands.bind(CreateUser, create)

    async with started(hub):
        for key in range(1000):
            await hub.dispatch.handle(CreateUser(), key=key)
            await hub.dispatch.handle(CreateUser(), key=key, wait_for_response=True)
        counts = hub.dispatch.init.snapshot()["commands"]
        assert (counts["keys"], counts["queued"], counts["handled"]) == (0, 0, 2000)
        await asyncio.sleep(0)
        assert (len(asyncio.all_tasks()), len(gc.garbage))[0] <= 2
