"""What handlers are given: made once or for each of them, found by type, closed in the end."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, Generic, Optional, Protocol, TypeVar, Union, runtime_checkable

import pytest

from evbus.engine.handling.providers import (
    MISSING,
    Factory,
    Injector,
    Provider,
    Singleton,
    is_async,
    is_class,
    members,
    name_of,
)
from evbus.errors import DispatchError, HandlerSignatureError
from tests.evbus.rig import failure, turns, within

HERE = __name__
T = TypeVar("T")


class Repo:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class SqlRepo(Repo):
    pass


class MemoryRepo(Repo):
    pass


class Box(Generic[T]):
    pass


class Plain(Protocol):
    name: str


@runtime_checkable
class Closes(Protocol):
    def close(self) -> None: ...


class Named(Plain):
    name = "named"


def make_repo() -> Repo:
    return Repo()


def make_other() -> Repo:
    return Repo()


async def make_repo_later() -> Repo:
    await asyncio.sleep(0)
    return Repo()


def make_repo_by_chance() -> Any:
    return make_repo_later()


class Maker:
    async def __call__(self) -> Repo:
        return Repo()

    async def method(self) -> Repo:
        return Repo()


@functools.wraps(make_repo_later)
def wrapped() -> Any:
    return make_repo_later()


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def sentence(error: Any) -> str:
    return str(error.value)


# The form


def test_a_provider_shows_its_kind_its_name_and_its_function() -> None:
    provider = Singleton["repo":make_repo]
    assert (provider.kind, provider.name, provider.make) == ("Singleton", "repo", make_repo)
    assert isinstance(provider, Singleton)
    assert repr(provider) == f"Singleton['repo': {HERE}.make_repo]"
    assert repr(Factory["repo":Repo]) == f"Factory['repo': {HERE}.Repo]"
    assert repr(Factory["repo" : Maker()]) == f"Factory['repo': {HERE}.Maker]"
    assert repr(Factory["repo" : functools.partial(make_repo)]) == f"Factory['repo': {HERE}.make_repo]"


def test_a_provider_cannot_be_changed() -> None:
    provider = Singleton["repo":make_repo]
    with pytest.raises(AttributeError, match="cannot be changed; make another one"):
        provider.name = "other"
    with pytest.raises(AttributeError, match="cannot be changed; make another one"):
        del provider.make


def test_providers_that_say_the_same_are_equal() -> None:
    assert Singleton["repo":make_repo] == Singleton["repo":make_repo]
    assert len({Singleton["repo":make_repo], Singleton["repo":make_repo]}) == 1
    assert Singleton["repo":make_repo] != Singleton["repo":make_other]
    assert Singleton["repo":make_repo] != Singleton["other":make_repo]
    assert Singleton["repo":make_repo] != Factory["repo":make_repo]
    assert Singleton["repo":make_repo] != "repo"


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (make_repo, 'Singleton[...] needs a name and a function; write Singleton["name": function]'),
        (
            ("repo", make_repo),
            'Singleton[...] needs a name and a function; write Singleton["name": function]',
        ),
        (
            slice("repo", make_repo, 1),
            'Singleton[...] needs a name and a function; write Singleton["name": function]',
        ),
        (
            slice(make_repo, "repo"),
            'Singleton[...] needs a string as its name; write Singleton["name": function]',
        ),
        (
            slice("", make_repo),
            'Singleton[...] needs a string as its name; write Singleton["name": function]',
        ),
        (
            slice(None, make_repo),
            'Singleton[...] needs a string as its name; write Singleton["name": function]',
        ),
        (
            slice("repo", 5),
            "Singleton['repo': ...] needs a function, not a int; write Singleton[\"name\": function]",
        ),
        (
            slice("repo", None),
            "Singleton['repo': ...] needs a function, not a NoneType; write Singleton[\"name\": function]",
        ),
    ],
)
def test_anything_but_a_name_and_a_function_is_refused_with_the_right_form(item: Any, reason: str) -> None:
    with pytest.raises(HandlerSignatureError) as caught:
        Singleton[item]
    assert sentence(caught) == reason


def test_a_function_that_needs_arguments_is_refused() -> None:
    def connect(dsn: str) -> Repo:
        raise AssertionError(dsn)

    with pytest.raises(HandlerSignatureError) as caught:
        Factory["db":connect]
    assert sentence(caught) == (
        f"the function of Factory['db': {name_of(connect)}] is called without arguments, but missing a "
        "required argument: 'dsn'; give them beforehand with functools.partial"
    )
    assert Factory["db" : functools.partial(connect, "dsn")].name == "db"


def test_a_function_that_yields_is_refused() -> None:
    async def session() -> AsyncIterator[Repo]:
        yield Repo()

    with pytest.raises(HandlerSignatureError) as caught:
        Singleton["session":session]
    assert sentence(caught) == (
        f"the function of Singleton['session': {name_of(session)}] yields; return the object, and give it "
        "aclose() or close() for the end"
    )


def test_a_function_written_in_c_that_does_not_tell_its_arguments_is_taken() -> None:
    assert run(Injector().resolve(Factory["d":dict])) == {}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (make_repo, False),
        (Repo, False),
        (Maker, False),
        (make_repo_later, True),
        (Maker(), True),
        (Maker().method, True),
        (functools.partial(make_repo_later), True),
        (functools.partial(Maker()), True),
        (wrapped, True),
        (make_repo_by_chance, False),
    ],
)
def test_what_is_asynchronous_is_told_by_its_declaration(make: Any, expected: bool) -> None:
    assert is_async(make) is expected
    assert Singleton["x":make].is_async is expected


# Making


@pytest.mark.parametrize(
    "make",
    [
        make_repo,
        Repo,
        make_repo_later,
        Maker(),
        Maker().method,
        functools.partial(make_repo_later),
        functools.partial(Maker()),
        wrapped,
        make_repo_by_chance,
    ],
)
async def test_a_singleton_is_one_object_and_a_factory_makes_one_each_time(
    injector: Injector, make: Any
) -> None:
    one = await injector.resolve(Singleton["one":make])
    assert isinstance(one, Repo)
    assert await injector.resolve(Singleton["one":make]) is one
    each = [await injector.resolve(Factory["each":make]) for _ in range(3)]
    assert len({id(repo) for repo in [*each, one]}) == 4
    assert await Injector().resolve(Singleton["one":make]) is not one
    await injector.aclose()
    assert [repo.closed for repo in [one, *each]] == [1, 1, 1, 1]


def test_a_singleton_may_be_none() -> None:
    made: list[int] = []
    injector, provider = Injector(), Singleton["none" : lambda: made.append(1)]
    assert [injector.resolve_now(provider), run(injector.resolve(provider))] == [None, None]
    assert made == [1]


@pytest.fixture
def injector() -> Injector:
    return Injector()


class Gate:
    """An asynchronous maker that waits until it is let through."""

    def __init__(self, *plan: Any) -> None:
        self.plan = list(plan)
        self.begun = 0
        self.open = asyncio.Event()

    async def __call__(self) -> Any:
        self.begun += 1
        await self.open.wait()
        outcome = self.plan.pop(0) if self.plan else Repo()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def ask(injector: Injector, provider: Provider, number: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(injector.resolve(provider)) for _ in range(number)]
    await turns(3)
    return tasks


async def test_all_who_ask_while_a_singleton_is_made_get_the_same(injector: Injector, gate: Gate) -> None:
    tasks = await ask(injector, Singleton["x":gate], 50)
    assert gate.begun == 1
    gate.open.set()
    assert len({id(await within(task)) for task in tasks}) == 1


async def test_a_makers_error_reaches_all_who_wait_and_the_next_one_tries_again() -> None:
    injector, gate = Injector(), Gate(ConnectionError("down"))
    provider = Singleton["x":gate]
    tasks = await ask(injector, provider, 3)
    gate.open.set()
    for task in tasks:
        with pytest.raises(ConnectionError, match="down"):
            await within(task)
    assert isinstance(await within(injector.resolve(provider)), Repo)
    assert gate.begun == 2


async def test_the_error_of_a_plain_maker_is_not_remembered() -> None:
    outcomes: list[Any] = [ConnectionError("down"), Repo()]

    def make() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    injector, provider = Injector(), Singleton["x":make]
    with pytest.raises(ConnectionError):
        await injector.resolve(provider)
    assert isinstance(await injector.resolve(provider), Repo)


@pytest.mark.parametrize("first", [True, False])
async def test_one_asker_cancelled_leaves_the_others_their_singleton(
    injector: Injector, gate: Gate, first: bool
) -> None:
    tasks = await ask(injector, Singleton["x":gate], 3)
    gone = tasks.pop(0 if first else -1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(gone)
    gate.open.set()
    assert len({await within(task) for task in tasks}) == 1


async def test_all_askers_cancelled_the_next_one_gets_what_was_begun(injector: Injector, gate: Gate) -> None:
    provider = Singleton["x":gate]
    (task,) = await ask(injector, provider, 1)
    task.cancel()
    await turns(3)
    gate.open.set()
    repo = await within(injector.resolve(provider))
    assert gate.begun == 1
    await injector.aclose()
    assert repo.closed == 1


async def test_an_error_that_nobody_waits_for_any_more_makes_no_noise(caplog: Any) -> None:
    injector, gate = Injector(), Gate(ConnectionError("down"))
    (task,) = await ask(injector, Singleton["x":gate], 1)
    task.cancel()
    await turns(3)
    gate.open.set()
    await turns(5)
    assert caplog.text == ""


async def test_a_maker_that_is_cancelled_from_within_is_an_error_and_no_cancellation() -> None:
    injector, gate = Injector(), Gate(asyncio.CancelledError())
    provider = Singleton["x":gate]
    (task,) = await ask(injector, provider, 1)
    gate.open.set()
    with pytest.raises(DispatchError) as caught:
        await within(task)
    assert sentence(caught) == f"{provider!r} was cancelled before it was made; ask for it again"
    assert isinstance(await within(injector.resolve(provider)), Repo)


async def test_the_asker_of_a_factory_cancelled_ends_its_maker(injector: Injector, gate: Gate) -> None:
    (task,) = await ask(injector, Factory["x":gate], 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_plain_makers_need_no_loop(injector: Injector) -> None:
    one = injector.resolve_now(Singleton["x":make_repo])
    assert injector.resolve_now(Singleton["x":make_repo]) is one
    assert injector.resolve_now(Factory["y":make_repo]) is not injector.resolve_now(Factory["y":make_repo])


@pytest.mark.parametrize("make", [make_repo_later, Maker(), make_repo_by_chance])
def test_what_has_to_be_awaited_is_refused_where_nothing_waits(make: Any) -> None:
    provider = Singleton["x":make]
    assert failure(HandlerSignatureError, Injector().resolve_now, provider) == (
        f"{provider!r} has to be awaited, which is not possible here; await resolve(), and write what "
        "returns something to await as `async def`"
    )


async def test_a_singleton_made_before_is_there_at_once() -> None:
    injector, provider = Injector(), Singleton["x":make_repo_later]
    repo = await injector.resolve(provider)
    assert injector.resolve_now(provider) is repo


async def test_fill_makes_what_has_to_be_made_and_leaves_values_alone() -> None:
    value = object()
    filled = await Injector().fill({"a": value, "b": Factory["b":make_repo_later], "c": None})
    assert filled["a"] is value
    assert isinstance(filled["b"], Repo)
    assert filled["c"] is None


# Names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Singleton["repo":make_repo], Singleton["repo":make_other]),
        (Singleton["repo":make_repo], Factory["repo":make_repo]),
        (Factory["repo":make_repo], Singleton["repo":make_repo]),
    ],
)
def test_a_name_that_stands_for_something_else_names_both(
    injector: Injector, first: Provider, second: Provider
) -> None:
    injector.declare(first)
    for use in (injector.declare, injector.resolve_now, lambda one: run(injector.resolve(one))):
        assert failure(HandlerSignatureError, use, second) == (
            f"the name 'repo' is taken by {first!r}, and cannot be {second!r} as well; "
            "give one of them another name"
        )
    assert isinstance(injector.resolve_now(first), Repo)


def test_the_same_provider_may_be_declared_again_and_factories_may_share_a_name(injector: Injector) -> None:
    for _ in range(2):
        injector.declare(Singleton["one":make_repo])
        injector.declare(Factory["each":make_repo])
        injector.declare(Factory["each":make_other])


def test_names_belong_to_one_injector() -> None:
    Injector().declare(Singleton["repo":make_repo])
    Injector().declare(Singleton["repo":make_other])


# By type


def test_a_type_that_is_provided_is_found() -> None:
    injector, repo = Injector(), Repo()
    provider = Singleton["sql":SqlRepo]
    assert injector.find(Repo) is MISSING
    injector.provide(Repo, repo)
    injector.provide(SqlRepo, provider)
    assert injector.find(Repo) is repo
    assert injector.find(SqlRepo) is provider
    assert injector.find(MemoryRepo) is MISSING
    assert repr(injector) == "<Injector 2 types, 0 made>"


def test_the_only_provided_subclass_is_found() -> None:
    injector, repo = Injector(), SqlRepo()
    injector.provide(SqlRepo, repo)
    assert injector.find(Repo) is repo
    injector.provide(Named, "named")
    assert injector.find(Plain) == "named"
    assert injector.find(Closes) is repo


@pytest.mark.parametrize(
    "annotation",
    [
        Repo | None,
        Optional[Repo],  # noqa: UP045 - both ways of writing it
        Union[None, int, SqlRepo],  # noqa: UP007
        Annotated[Repo, "the one"],
        Annotated[Repo | None, "the one"],
    ],
)
def test_a_member_of_a_union_is_found(annotation: Any) -> None:
    injector, repo = Injector(), SqlRepo()
    injector.provide(SqlRepo, repo)
    assert injector.find(annotation) is repo


@pytest.mark.parametrize("annotation", [object, Any, None, type(None), int, str, list[Repo], T, "Repo", [1]])
def test_what_says_nothing_of_a_provided_type_finds_nothing(injector: Injector, annotation: Any) -> None:
    class Secret(str):
        __slots__ = ()

    injector.provide(Repo, Repo())
    injector.provide(Secret, Secret())
    injector.provide(bool, True)
    assert injector.find(annotation) is MISSING


def test_a_parametrized_type_is_found_as_it_was_provided(injector: Injector) -> None:
    injector.provide(Box[int], "ints")
    injector.provide(Box[str], "strings")
    assert injector.find(Box[int]) == "ints"
    assert injector.find(Box[str]) == "strings"
    assert injector.find(Box[bytes]) is MISSING


def test_several_types_that_would_do_are_named(injector: Injector) -> None:
    injector.provide(SqlRepo, SqlRepo())
    injector.provide(MemoryRepo, MemoryRepo())
    assert failure(HandlerSignatureError, injector.find, Repo) == (
        "several types are provided for Repo: MemoryRepo, SqlRepo; annotate with one of them, or give the "
        "parameter by keyword when binding"
    )
    injector.provide(Repo, Repo())
    assert type(injector.find(Repo)) is Repo


def test_a_type_provided_twice_is_refused_and_stays_what_it_was() -> None:
    injector, repo = Injector(), Repo()
    injector.provide(Repo, repo)
    assert failure(HandlerSignatureError, injector.provide, Repo, Singleton["repo":make_repo]) == (
        f"Repo is provided already, by a Repo, and cannot be provided by Singleton['repo': {HERE}.make_repo] "
        "as well; provide it once"
    )
    assert injector.find(Repo) is repo


@pytest.mark.parametrize("kind", ["Repo", None, 5, Repo | None, int | Repo, Annotated[Repo, 1], Any, T])
def test_only_a_class_can_be_provided(kind: Any) -> None:
    assert (
        failure(HandlerSignatureError, Injector().provide, kind, Repo())
        == f"only a class can be provided, and {kind!r} is none; give its class"
    )


def test_a_kind_of_provider_without_its_brackets_is_refused() -> None:
    assert (
        failure(HandlerSignatureError, Injector().provide, Repo, Factory)
        == 'Factory alone makes nothing; write Factory["name": function]'
    )


def test_a_provided_providers_name_is_taken(injector: Injector) -> None:
    injector.provide(Repo, Singleton["repo":make_repo])
    with pytest.raises(HandlerSignatureError, match="the name 'repo' is taken"):
        injector.provide(SqlRepo, Singleton["repo":make_other])
    assert injector.find(SqlRepo) is MISSING


# Closing


class Log:
    """Objects that note when they are closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def sync(self, name: str) -> Any:
        log = self.closed

        class Thing:
            def close(self) -> None:
                log.append(name)

        return Thing()

    def later(self, name: str) -> Any:
        log = self.closed

        class Thing:
            async def close(self) -> None:
                await asyncio.sleep(0)
                log.append(name)

        return Thing()

    def both(self, name: str) -> Any:
        log = self.closed

        class Thing:
            async def aclose(self) -> None:
                log.append(name)

            def close(self) -> None:
                log.append(f"not {name}")

        return Thing()


@pytest.fixture
def log() -> Log:
    return Log()


def singleton(name: str, value: Any) -> Provider:
    return Singleton[name : lambda: value]


async def made(injector: Injector, **values: Any) -> None:
    for name, value in values.items():
        await injector.resolve(singleton(name, value))


async def test_what_was_made_is_closed_in_reverse_order(log: Log, injector: Injector) -> None:
    await made(injector, a=log.sync("a"), b=log.later("b"), c=log.both("c"), d=object(), e=None)
    await injector.aclose()
    assert log.closed == ["c", "b", "a"]
    await injector.aclose()
    assert log.closed == ["c", "b", "a"]
    assert repr(injector) == "<Injector 0 types, 0 made>"


async def test_given_values_stay_open() -> None:
    injector, repo = Injector(), Repo()
    injector.provide(Repo, repo)
    await injector.fill({"repo": repo})
    await injector.aclose()
    assert repo.closed == 0


async def test_what_two_providers_return_is_closed_once_and_classes_are_not_closed() -> None:
    injector, repo = Injector(), Repo()
    await made(injector, a=repo, b=repo, c=Repo)
    await injector.aclose()
    assert repo.closed == 1


async def test_one_that_fails_is_logged_and_the_others_are_closed(caplog: Any) -> None:
    class Bad:
        def close(self) -> None:
            raise ConnectionError("bad")

    class BadLater:
        async def aclose(self) -> None:
            raise ConnectionError("bad later")

    class BadLookup:
        @property
        def close(self) -> Any:
            raise ConnectionError("bad lookup")

    class Stray:
        async def aclose(self) -> None:
            raise asyncio.CancelledError

    with caplog.at_level(logging.ERROR, "evbus.dispatch"):
        log, injector = Log(), Injector()
        await made(
            injector,
            a=log.sync("a"),
            bad=Bad(),
            later=BadLater(),
            look=BadLookup(),
            stray=Stray(),
            z=log.sync("z"),
        )
        await injector.aclose()
        assert log.closed == ["z", "a"]
    told = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert told == [
        "closing Singleton['stray'",
        *(f"closing Singleton['{name}'" for name in ("look", "later", "bad")),
    ]
    assert "was cancelled from within" in caplog.records[0].getMessage()
    assert all("failed" in record.getMessage() and record.exc_info for record in caplog.records[1:])


@pytest.mark.parametrize("stubborn", [False, True])
async def test_one_that_takes_too_long_is_given_up(caplog: Any, monkeypatch: Any, stubborn: bool) -> None:
    monkeypatch.setattr("evbus.engine.handling.providers._GRACE", 1e-6)
    release = asyncio.Event()

    class Hangs:
        async def aclose(self) -> None:
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
                await release.wait()

    with caplog.at_level(logging.ERROR, "evbus.dispatch"):
        log, injector = Log(), Injector()
        await made(injector, a=log.sync("a"), slow=Hangs())
        await within(injector.aclose(1e-6))
        assert log.closed == ["a"]
        release.set()
        await turns(5)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    (record,) = caplog.records
    assert record.getMessage().startswith("closing Singleton['slow'")
    assert record.getMessage().endswith("took longer than 1e-06 s and was given up")


async def test_cancelled_it_leaves_the_rest_for_the_next_call() -> None:
    log, injector, hanging = Log(), Injector(), asyncio.Event()

    class Hangs:
        async def aclose(self) -> None:
            hanging.set()
            await asyncio.Event().wait()

    await made(injector, a=log.sync("a"), slow=Hangs())
    task = asyncio.ensure_future(injector.aclose())
    await within(hanging.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert log.closed == []
    await injector.aclose()
    assert log.closed == ["a"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_afterwards_it_makes_anew_and_names_and_types_are_still_known() -> None:
    injector, provider = Injector(), Singleton["x":make_repo_later]
    injector.provide(Repo, provider)
    repos = []

    async def life() -> None:
        repos.append(await injector.resolve(injector.find(Repo)))
        await injector.aclose()

    run(life())
    run(life())  # in another loop
    assert repos[0] is not repos[1]
    assert [repo.closed for repo in repos] == [1, 1]
    with pytest.raises(HandlerSignatureError, match="the name 'x' is taken"):
        injector.declare(Singleton["x":make_repo])


@pytest.mark.parametrize("begun", [True, False])
async def test_closing_ends_what_is_being_made_and_tells_who_waits(
    injector: Injector, gate: Gate, begun: bool
) -> None:
    provider = Singleton["x":gate]
    task = asyncio.ensure_future(injector.resolve(provider))
    await turns(3 if begun else 1)
    assert gate.begun == int(begun)
    await within(injector.aclose())
    with pytest.raises(DispatchError) as caught:
        await within(task)
    assert sentence(caught) == f"{provider!r} was cancelled before it was made; ask for it again"
    gate.open.set()
    assert isinstance(await within(injector.resolve(provider)), Repo)


async def test_what_is_made_in_spite_of_closing_is_closed_by_the_next_call(caplog: Any) -> None:
    release, repo = asyncio.Event(), Repo()

    async def stubborn() -> Repo:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
        return repo

    with caplog.at_level(logging.ERROR, "evbus.dispatch"):
        injector = Injector()
        provider = Singleton["x":stubborn]
        (task,) = await ask(injector, provider, 1)
        await within(injector.aclose(1e-6))
        release.set()
        assert await within(task) is repo
        await injector.aclose()
        assert repo.closed == 1
    (record,) = caplog.records
    assert record.getMessage().endswith("is still being made 1e-06 s after it was cancelled")


# Names of things and classes of annotations


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (make_repo, "make_repo"),
        (Repo, "Repo"),
        (Maker(), "Maker"),
        (Maker().method, "Maker.method"),
        (functools.partial(functools.partial(make_repo)), "make_repo"),
        (wrapped, "make_repo_later"),
    ],
)
def test_names_say_where_things_are_defined(thing: Any, expected: str) -> None:
    assert name_of(thing) == f"{HERE}.{expected}"


def test_what_is_a_class_and_what_a_union_allows() -> None:
    assert [is_class(one) for one in (Repo, Box, list[int], Box[int], Any, "Repo")] == [
        True,
        True,
        *[False] * 4,
    ]
    assert members(Repo | None | Annotated[int | str, 5]) == (Repo, int, str)


def test_what_nobody_provides_is_looked_for_elsewhere() -> None:
    injector, asked = Injector(), list[Any]()

    def find(kind: Any) -> Any:
        asked.append(kind)
        return 5 if kind is Repo else None

    injector.also(find)
    assert injector.find(Repo) == 5
    assert injector.find(int) is MISSING
    repo = Repo()
    injector.provide(Repo, repo)
    assert injector.find(Repo) is repo
    assert asked == [Repo, int]
