"""Handlers in files of folders called ``handler``."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evbus.api import command, on, query
from evbus.engine.handling.dispatch.declare import declarations
from evbus.errors import HandlerSignatureError
from tests.command.kit import Shell
from tests.dispatch.hub_kit import (
    CreateUser,
    Repo,
    UserCreated,
    UserQuery,
    failure,
    go,
    new_hub,
    started,
)
from tests.evbus.kit import bodies, package, plugin, running, states, write

#: What every file of these tests begins with.
HEAD = """
from evbus.api import AbstractHandler, command, on, query
from tests.dispatch.hub_kit import CreateUser, Repo, User, UserCreated, UserQuery
from tests.engine.handling.dispatch.test_declare import SEEN, quiet
"""
HEAD_LINES = HEAD.count("\n") + 2
SEEN: list[Any] = []

GOOD = """
@command(CreateUser, response_event=UserCreated)
async def create(hub, message):
    SEEN.append(message)
    return UserCreated(message.name)


@query(UserQuery)
class Users:
    def __init__(self, hub):
        self.hub = hub

    async def __call__(self, query):
        return [self.hub, query.name]


@on(UserCreated)
@on("on startup")
async def greet(event):
    SEEN.append(event)


class NoHandler:
    async def handle(self, event):
        raise AssertionError
"""


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function, and forget where it comes from."""

    async def wrapper(hub: Any, message: Any) -> Any:
        return await function(hub, message)

    return wrapper


def files(root: Path, **texts: str) -> Path:
    """Write files of a folder ``handler``."""
    return write(
        root, **{f"handler__{name}": HEAD + "\n" + textwrap.dedent(text) for name, text in texts.items()}
    )


def hub_with(tmp_path: Path, **texts: str) -> Any:
    return new_hub(plugin_dirs=[files(tmp_path / "plugins", **texts)])


def line_in(text: str, wanted: str = "# told") -> int:
    """Return in which line of the whole file the first line with ``wanted`` stands, 0 for none."""
    lines = enumerate(textwrap.dedent(text).splitlines(), HEAD_LINES)
    return next((number for number, line in lines if wanted in line), 0)


async def everything(hub: Any) -> list[Any]:
    async with started(hub) as dp:
        await dp.handle(CreateUser("bob"), wait_for_response=True)
        await dp.events.handle("on startup", wait_for_response=True)
        return await dp.handle(UserQuery("eve"), wait_for_response=True)


def test_functions_and_classes_of_a_plugin_folder_are_bound_at_start(tmp_path: Path) -> None:
    hub = hub_with(tmp_path, users=GOOD)
    assert states(hub, "handler") == {"users": "loaded"}
    assert hub.dispatch.init.snapshot()["commands"]["handlers"] == 0
    assert go(lambda: everything(hub)) == [hub, "eve"]
    assert sorted(SEEN, key=str) == [CreateUser("bob"), UserCreated("bob"), "on startup"]
    counts = hub.dispatch.init.snapshot()
    assert [counts[router]["handlers"] for router in ("events", "commands", "queries")] == [2, 1, 1]


def test_a_package_merges_its_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "shop", {"handler": ["handler"]}, handler__users=HEAD + GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert states(new_hub(), "handler") == {"users": "not in use"}
    hub = new_hub(listen_to=["shop"])
    assert states(hub, "handler") == {"users": "loaded"}
    assert go(lambda: everything(hub)) == [hub, "eve"]


async def test_handlers_are_bound_once_however_often_it_is_started(tmp_path: Path) -> None:
    hub = hub_with(tmp_path, users=GOOD)

    for _ in range(3):
        assert await everything(hub) == [hub, "eve"]
    assert len(SEEN) == 9
    assert states(hub, "handler") == {"users": "loaded"}


def test_two_hubs_have_handlers_of_their_own(tmp_path: Path) -> None:
    first, second = hub_with(tmp_path, users=GOOD), hub_with(tmp_path, users=GOOD)
    assert go(lambda: everything(first)) == [first, "eve"]
    assert go(lambda: everything(second)) == [second, "eve"]


def test_a_handler_is_a_function_on_the_hub_too(tmp_path: Path) -> None:
    hub = hub_with(tmp_path, users=GOOD)
    hub.evbus.init.settings()
    assert go(lambda: hub.handler.users.create(CreateUser("bob"))) == UserCreated("bob")


async def test_decorators_take_what_bind_takes(tmp_path: Path) -> None:
    text = """
        @query(UserQuery, argname="query", greeting="hello")
        async def users(greeting, query):
            return greeting, query

        @on(UserCreated, publish_to="users")
        async def created(event):
            SEEN.append(event)
    """
    hub = hub_with(tmp_path, users=text)

    async with running(hub, {"internal": {"users": {}}}), started(hub) as dp:
        found = await dp.handle(UserQuery(), wait_for_response=True)
        await dp.handle(UserCreated("bob"))
    assert (found, await bodies(hub, "UserCreated", 1)) == (("hello", UserQuery()), [b'{"name":"bob"}'])
    assert [UserCreated("bob")] == SEEN


def test_what_handlers_take_may_be_provided_after_the_files_are_loaded(tmp_path: Path) -> None:
    hub = hub_with(
        tmp_path, users="@query(UserQuery)\nasync def users(query, repo: Repo):\n    return repo\n"
    )
    assert states(hub, "handler") == {"users": "loaded"}
    assert "nothing is provided for 'repo', a Repo" in failure(HandlerSignatureError, hub.dispatch.init.start)
    repo = Repo()
    hub.dispatch.init.provide(Repo, repo)

    async def main() -> Any:
        async with started(hub) as dp:
            return await dp.handle(UserQuery(), wait_for_response=True)

    assert go(main) is repo


async def test_a_decorated_handler_is_the_outermost_layer(tmp_path: Path) -> None:
    text = """
        @query(UserQuery)
        @quiet
        async def users(hub, query):
            return query.name
    """
    hub = hub_with(tmp_path, users=text)

    async with started(hub) as dp:
        assert await dp.handle(UserQuery(), wait_for_response=True) == "ann"


def test_handlers_that_are_imported_belong_to_the_file_they_stand_in(tmp_path: Path) -> None:
    text = """
        from tests.engine.handling.dispatch.test_declare import imported

        @query(UserQuery)
        async def users(query):
            return query.name

        the_same = users
    """
    hub = hub_with(tmp_path, users=text)
    hub.dispatch.start()
    assert hub.dispatch.init.snapshot()["commands"]["handlers"] == 0
    assert hub.dispatch.init.snapshot()["queries"]["handlers"] == 1


@command("imported")
async def imported() -> None:
    """Be imported by a file, which makes it no handler of that file."""


def test_what_a_file_declares_is_told_in_its_order() -> None:
    module = ModuleType("shop")

    async def first() -> None: ...

    @command("a")
    @query("b")
    async def second() -> None: ...

    for function in (first, second):
        function.__module__ = "shop"
    vars(module).update(second=second, first=on("c")(first), again=second, partial=functools.partial(second))
    assert [(name, says.router, says.message) for name, _, says in declarations(module)] == [
        ("second", "commands", "a"),
        ("second", "queries", "b"),
        ("first", "events", "c"),
    ]


async def test_a_message_class_of_the_file_itself_works_for_what_is_sent_from_it(tmp_path: Path) -> None:
    text = """
        import dataclasses

        @dataclasses.dataclass
        class Inner:
            name: str

        @query(Inner)
        async def inner(message: Inner):
            return message.name

        @query(UserQuery)
        async def users(hub, query):
            return await hub.dispatch.queries.handle(Inner(query.name), wait_for_response=True)
    """
    hub = hub_with(tmp_path, users=text)

    async with started(hub) as dp:
        assert await dp.handle(UserQuery("bob"), wait_for_response=True) == "bob"


# Contracts

CONTRACT = """
from tests.engine.handling.dispatch.test_declare import SEEN


async def pre_create(hub, ctx):
    SEEN.append(("pre", ctx.get_arguments()["message"].name))


async def post_create(hub, ctx):
    SEEN.append(("post", ctx.ret))
    return "changed"
"""


def test_contracts_of_the_folder_are_honoured(tmp_path: Path) -> None:
    root = files(tmp_path / "plugins", users=GOOD.replace(", response_event=UserCreated", ""))
    hub = new_hub(plugin_dirs=[write(root, handler__contracts__init=CONTRACT)])

    async def main() -> Any:
        async with started(hub) as dp:
            return await dp.handle(CreateUser("bob"), wait_for_response=True)

    assert go(main) == "changed"
    assert [("pre", "bob"), CreateUser("bob"), ("post", UserCreated("bob"))] == SEEN


async def test_contracts_reach_functions_with_another_name_on_the_hub(tmp_path: Path) -> None:
    text = """
        __func_alias__ = {"create_": "create"}

        @command(CreateUser)
        async def create_(hub, message):
            return message
    """
    root = write(files(tmp_path / "plugins", users=text), handler__contracts__init=CONTRACT)
    hub = new_hub(plugin_dirs=[root])

    async with started(hub) as dp:
        assert await dp.handle(CreateUser("bob"), wait_for_response=True) == "changed"


# What is wrong with a file is told, and harms nobody else

BROKEN = {
    "syntax": ("def (  # told", "not valid Python: invalid syntax"),
    "sync": (
        """
        @command("x")  # told
        def f(hub, message):
            pass
        """,
        """
        the handler f of x: it is a plain function, and handlers are asynchronous; write `async def`, and run
        blocking code with `await asyncio.to_thread(...)`
        """,
    ),
    "ambiguous": (
        """
        @command("x")  # told
        async def f(hub, a, b):
            pass
        """,
        """
        the handler f of x: ambiguous argument: 'a' or 'b' could take the message; name the one that does with
        argname='a', and give the rest when binding (b=...)
        """,
    ),
    "argname": (
        """
        @command("x", argname="mesage")  # told
        async def f(hub, message):
            pass
        """,
        "the handler f of x: it has no parameter 'mesage' to take the message; did you mean 'message'?",
    ),
    "keyword": (
        """
        @command("x", rpo=1)  # told
        async def f(hub, message, repo):
            pass
        """,
        "the handler f of x: it has no parameter 'rpo'; did you mean 'repo'?",
    ),
    "undecorated": (
        """
        async def f(hub, message):
            pass
        """,
        "it has no handler: a function with @command(Type), @query(Type) or @on(Type)",
    ),
    "second": (
        """
        @query("fine")
        async def fine():
            pass

        @command(CreateUser)  # told
        async def f(hub, message):
            pass
        """,
        """
        the handler f of CreateUser: there is one already, create in {good}, and a message of commands has
        exactly one
        """,
    ),
    "twice": (
        """
        @command("x")
        async def f():
            pass

        @command("x")  # told
        async def g():
            pass
        """,
        "the handler g of x: there is one already, f in {own}, and a message of commands has exactly one",
    ),
    "message": (
        """
        @command(5)  # told
        async def f(hub, message):
            pass
        """,
        "a message is a class or a string that is not empty, not 5; bind one of those",
    ),
    "function": (
        """
        @on  # told
        async def f(hub, message):
            pass
        """,
        "f is decorated without a message; write @on(Type), with the class or string to handle",
    ),
    "classless": (
        """
        @query  # told
        class Users:
            async def __call__(self, message):
                pass
        """,
        "Users is decorated without a message; write @query(Type), with the class or string to handle",
    ),
    "method": (
        """
        class Users:
            @query(UserQuery)  # told
            async def find(self, message):
                pass
        """,
        """
        Users.find is a method, and methods are not bound by themselves; decorate the class, which has
        __call__ or handle, or write a function
        """,
    ),
    "response": (
        """
        @command("x", response_event=UserCreated)  # told
        async def f(hub) -> User:
            pass
        """,
        """
        the handler f of x: it returns User, which is never the response_event UserCreated; return that, or
        bind it without response_event
        """,
    ),
    "command_publishes": (
        """
        @command("x", publish_to="users")  # told
        async def f(hub):
            pass
        """,
        "the handler f of x: it has no parameter 'publish_to'; bind it without",
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_file_is_told_with_line_and_reason_and_harms_nobody(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    text, said = BROKEN[name]
    # Files are loaded by their names: the good one first.
    hub = hub_with(tmp_path, a_good=GOOD, broken=text)
    folder = tmp_path / "plugins" / "handler"
    reason = " ".join(said.split()).format(good=folder / "a_good.py", own=folder / "broken.py")
    found = plugin(hub, "broken", "handler")
    line = line_in(text)
    assert (found.state, found.reason, found.line) == ("broken", reason, line)
    where = f"{found.file}:{line}" if line else found.file
    assert f"plugin not loaded: handler.broken ({where}): {reason}" in caplog.text
    assert go(lambda: everything(hub)) == [hub, "eve"]


def test_an_event_that_cannot_travel_is_told_of_its_file(tmp_path: Path) -> None:
    text = "class Plain: ...\n\n@on(Plain, publish_to='users')\nasync def f(event):\n    pass\n"
    found = plugin(hub_with(tmp_path, broken=text), "broken", "handler")
    assert "its instances cannot travel; make it a dataclass" in found.reason
    assert found.line == line_in(text, "@on")


def test_the_command_lists_broken_handlers_with_file_line_and_reason(tmp_path: Path) -> None:
    files(tmp_path / "plugins", a_good=GOOD, broken="@command(5)\nasync def f():\n    pass\n")
    done = Shell(tmp_path).run("plugins", "handler", "--plugin-dirs", "plugins")
    assert done.returncode == 2
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "loaded" in rows["handler.a_good"]
    assert "a message is a class or a string that is not empty, not 5" in rows["handler.broken"]
    assert f"broken.py:{HEAD_LINES}" in rows["handler.broken"]


def test_a_file_that_is_switched_off_leaves_its_command_to_another(tmp_path: Path) -> None:
    off = "def __virtual__(hub):\n    return False, 'not today'\n"
    hub = hub_with(tmp_path, a=GOOD + off, b=GOOD)
    assert states(hub, "handler") == {"a": "disabled", "b": "loaded"}
    assert go(lambda: everything(hub)) == [hub, "eve"]


def test_what_the_program_has_bound_wins_and_the_file_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = hub_with(tmp_path, users=GOOD)

    @hub.dispatch.queries.register(UserQuery)
    async def own(query: UserQuery) -> str:
        return "own"

    async def main() -> Any:
        async with started(hub) as dp:
            return await dp.handle(UserQuery(), wait_for_response=True)

    assert go(main) == "own"
    found = plugin(hub, "users", "handler")
    assert found.state == "broken"
    assert "of UserQuery: there is one already" in found.reason
    assert found.line == line_in(GOOD, "@query")
    assert "plugin not loaded: handler.users" in caplog.text
    # All of a file, or nothing.
    assert hub.dispatch.init.snapshot()["commands"]["handlers"] == 0


async def test_files_that_come_too_late_are_told_of(tmp_path: Path) -> None:
    hub = new_hub()

    async with started(hub):
        pass
    root = files(tmp_path / "plugins", users=GOOD)
    hub.OPT = hub.pop.data.imap({"evbus": {"plugin_dirs": [str(root)]}})
    async with started(hub):
        pass
    found = plugin(hub, "users", "handler")
    assert "the dispatcher is started and its routers are frozen; bind before the start" in found.reason


def test_a_failing_contract_file_leaves_the_handlers(tmp_path: Path) -> None:
    root = write(files(tmp_path / "plugins", users=GOOD), handler__contracts__init="def (\n")
    hub = new_hub(plugin_dirs=[root])
    assert states(hub, "handler") == {"contracts.init": "broken", "users": "loaded"}
    assert go(lambda: everything(hub)) == [hub, "eve"]
