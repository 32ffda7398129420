"""Commands and queries between processes, over RabbitMQ and ActiveMQ."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import (
    ConfigError,
    ConnectFailed,
    DeliveryError,
    DispatcherStopped,
    DispatchTimeout,
    ProfileError,
    RemoteError,
)
from tests.dispatch.remote_kit import (
    Create,
    Get,
    Picture,
    Program,
    User,
    contexts,
    process,
    serving,
)
from tests.evbus.kit import WAIT, new_hub, running, write

TRANSPORTS = {"amqp": ("rabbitmq", "amqp"), "stomp": ("rabbitmq", "stomp"), "activemq": ("activemq", "stomp")}
MOST = 120.0  # seconds; a broker may have to be started

Profiles = dict[str, Any]


@pytest.fixture(params=TRANSPORTS, scope="session")
def place(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """Return a broker and what is spoken with it, for each transport."""
    fixture, transport = TRANSPORTS[request.param]
    return request.getfixturevalue(fixture), transport


@pytest.fixture(params=TRANSPORTS, scope="session")
def broken_place(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """Return the same with a broker to kill; `mend` it first."""
    fixture, transport = TRANSPORTS[request.param]
    return request.getfixturevalue(f"spare_{fixture}_of_the_run"), transport


@pytest.fixture
def users(place: tuple[Any, str], unique: str) -> Callable[..., Profiles]:
    """Return what makes profiles with one called `users` and a queue of its own."""
    return lambda **more: contexts(*place, unique, **more)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"dead_store": tmp_path / "dead.jsonl"}


def port_of(node: Any, transport: str) -> int:
    port: int = node.port if transport == "amqp" else node.stomp_port
    return port


def forwards(*messages: Any, response: Any = None, timeout: float = 30.0) -> Callable[[Any], None]:
    def bind(dispatch: Any) -> None:
        for message in messages:
            router = dispatch.commands if message in (Create, Picture) else dispatch.queries
            router.forward(message, to="users", response=response, timeout=timeout)

    return bind


def answers(handler: Callable[..., Any], message: Any = Get) -> Callable[[Any], None]:
    return lambda dispatch: dispatch.queries.bind(message, handler)


async def ask(hub: Any, message: Any, **how: Any) -> Any:
    return await asyncio.wait_for(hub.dispatch.handle(message, wait_for_response=True, **how), 2 * WAIT)


# Round trips


async def test_messages_and_responses_of_every_kind_go_there_and_back(users: Any, options: Any) -> None:
    async def get(query: Get) -> User:
        return User(query.id, "änn")

    async def create(command: Create) -> Create:
        return Create(name=command.name.upper(), roles=[*command.roles, "new"])

    async def picture(command: Picture) -> bytes:
        return command.raw * 2

    async def sync(hub: Any) -> dict[str, Any]:
        return hub.dispatch.init.envelope().headers  # type: ignore[no-any-return]

    def server(dispatch: Any) -> None:
        dispatch.queries.bind(Get, get)
        dispatch.commands.bind(Create, create)
        dispatch.commands.bind(Picture, picture)
        dispatch.queries.bind("sync", sync)

    def client(dispatch: Any) -> None:
        dispatch.queries.forward(Get, to="users", response=User)
        dispatch.commands.forward(Create, to="users", response=Create)
        dispatch.commands.forward(Picture, to="users", response=bytes)
        dispatch.queries.forward("sync", to="users")

    raw = bytes(range(256)) * 1000

    async with serving(users(), server, **options), process(users(), client, **options) as hub:
        assert await ask(hub, Get(1)) == User(1, "änn")
        assert await ask(hub, Create(name="ann", roles=["a"])) == Create(name="ANN", roles=["a", "new"])
        assert await ask(hub, Picture(raw)) == raw * 2
        headers = await ask(hub, "sync", key="k", headers={"x-a": "b: c"})
        assert (headers["evbus-message"], headers["evbus-key"]) == ("sync", "k")
        assert headers["x-a"] == "b: c"
        assert 0 < float(headers["evbus-deadline"]) - time.time() <= 30
        many = await asyncio.gather(*[ask(hub, Get(number)) for number in range(200)])
        assert [user.id for user in many] == list(range(200))


async def test_failures_of_a_handler_arrive_with_their_type_and_text_and_no_traceback(
    users: Any, options: Any
) -> None:
    async def get(query: Get) -> Any:
        raise LookupError(f"there is no user\n{query.id}")

    async with (
        serving(users(), answers(get), **options),
        process(users(), forwards(Get), **options) as hub,
    ):
        with pytest.raises(RemoteError) as caught:
            await ask(hub, Get(13))
        assert (caught.value.type, caught.value.reason) == ("LookupError", r"there is no user\n13")
        assert "test_remote.py" not in str(caught.value)


async def test_a_message_that_the_server_does_not_know_or_cannot_read_is_told(
    users: Any, options: Any
) -> None:
    misspelt = dataclasses.make_dataclass("Gett", [("id", int)])
    private = dataclasses.make_dataclass("_Secret", [])
    other = dataclasses.make_dataclass("Get", [("id", str)])

    async def get(query: Get) -> int:
        return query.id

    async with (
        serving(users(), answers(get), **options),
        process(users(), forwards(misspelt, private, other, "__class__"), **options) as hub,
    ):
        for message, said in (
            (misspelt(1), "HandlerDoesNotExist: there is no handler for Gett"),
            (private(), "HandlerDoesNotExist: there is no handler for _Secret"),
            ("__class__", "HandlerDoesNotExist: there is no handler for __class__"),
            (
                other("x"),
                "InvalidPayload: this is no Get: Expected `int`, got `str` - at `$.id`",
            ),
        ):
            with pytest.raises(RemoteError) as caught:
                await ask(hub, message)
            assert str(caught.value) == said


async def test_what_is_forwarded_is_not_served_to_others(users: Any, options: Any) -> None:
    async with serving(users(), forwards(Get), **options) as hub:
        with pytest.raises(RemoteError, match="there is no handler for Get"):
            await ask(hub, Get(1))


@pytest.mark.parametrize(("client", "server"), [("amqp", "stomp"), ("stomp", "amqp")])
async def test_amqp_and_stomp_understand_each_other(
    client: str, server: str, rabbitmq: Any, unique: str, options: Any
) -> None:
    async def get(hub: Any, query: Get) -> list[Any]:
        return [query.id, hub.dispatch.init.envelope().headers["x-a"]]

    async with (
        serving(contexts(rabbitmq, server, unique), answers(get), **options),
        process(contexts(rabbitmq, client, unique), forwards(Get), **options) as hub,
    ):
        assert await ask(hub, Get(1), headers={"x-a": "b"}) == [1, "b"]
        with pytest.raises(RemoteError, match="KeyError: 'x-a'"):
            await ask(hub, Get(2))


# Nobody answers


async def test_when_nobody_serves_it_is_an_error_at_the_deadline(users: Any, options: Any) -> None:
    async with process(users(), forwards(Get, timeout=0.3), **options) as hub:
        with pytest.raises(DispatchTimeout, match=r"Get was not handled within 0\.3 s"):
            await ask(hub, Get(1))
        with pytest.raises(DispatchTimeout, match=r"Get was not handled within 0\.2 s"):
            await ask(hub, Get(1), timeout=0.2)


async def test_what_nobody_handled_in_time_is_never_handled(users: Any, options: Any) -> None:
    seen: list[int] = []

    async def get(query: Get) -> None:
        seen.append(query.id)

    async with process(users(), forwards(Get), **options) as hub:
        with pytest.raises(DispatchTimeout):
            await ask(hub, Get(1), timeout=0.2)
        # One that no broker drops.
        late = {"evbus-message": "Get", "evbus-deadline": str(time.time() - 1)}
        await hub.evbus.broker.put(body={"id": 2}, profile="users", headers=late)
        async with serving(users(), answers(get), **options):
            assert await ask(hub, Get(3)) is None
    assert seen == [3]


async def test_a_caller_s_timeout_cancels_the_handler_in_the_other_process(users: Any, options: Any) -> None:
    cancelled = asyncio.Event()

    async def get(query: Get) -> int:
        if query.id == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return query.id

    async with (
        serving(users(), answers(get), **options),
        process(users(), forwards(Get), **options) as hub,
    ):
        assert await ask(hub, Get(0)) == 0
        with pytest.raises(DispatchTimeout):
            await ask(hub, Get(1), timeout=0.3)
        await asyncio.wait_for(cancelled.wait(), WAIT)
        assert await ask(hub, Get(2)) == 2


async def test_a_caller_that_is_cancelled_harms_no_other_request(users: Any, options: Any) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def get(query: Get) -> int:
        if query.id == 1:
            begun.set()
            await gate.wait()
        return query.id

    async with (
        serving(users(), answers(get), **options),
        process(users(), forwards(Get), **options) as hub,
    ):
        task = asyncio.ensure_future(ask(hub, Get(1)))
        await asyncio.wait_for(begun.wait(), WAIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert await ask(hub, Get(2)) == 2


# A server ends


async def test_a_request_of_a_killed_server_is_handled_by_the_next(
    users: Any, options: Any, tmp_path: Path
) -> None:
    async def get(query: Get) -> str:
        return "from the next"

    async with process(users(), forwards(Get), **options) as hub:
        with closing(Program(users(), tmp_path)) as program:
            assert await ask(hub, Get(1)) == "from the program"
            task = asyncio.ensure_future(ask(hub, Get(0)))
            await program.begun()
            program.kill()
            async with serving(users(), answers(get), **options):
                assert await task == "from the next"


async def test_a_request_of_a_killed_server_without_another_ends_at_its_deadline(
    users: Any, options: Any, tmp_path: Path
) -> None:
    async with process(users(), forwards(Get), **options) as hub:
        with closing(Program(users(), tmp_path)) as program:
            assert await ask(hub, Get(1)) == "from the program"
            task = asyncio.ensure_future(ask(hub, Get(0), timeout=2))
            await program.begun()
            program.kill()
            with pytest.raises(DispatchTimeout):
                await task


async def test_a_server_that_stops_answers_what_it_has_begun_and_leaves_the_rest(
    users: Any, options: Any
) -> None:
    begun, gate = asyncio.Semaphore(0), asyncio.Event()

    async def get(query: Get) -> str:
        begun.release()
        await gate.wait()
        return f"first {query.id}"

    async def next_get(query: Get) -> str:
        return f"next {query.id}"

    async with process(users(), forwards(Get), **options) as hub:
        async with process(users(), answers(get), **options) as server:
            task = asyncio.ensure_future(server.dispatch.init.serve("users"))
            asking = [asyncio.ensure_future(ask(hub, Get(number))) for number in range(3)]
            for _ in asking:
                await asyncio.wait_for(begun.acquire(), WAIT)
            stopping = asyncio.ensure_future(server.dispatch.init.stop())
            await asyncio.sleep(0)
            later = asyncio.ensure_future(ask(hub, Get(3)))
            gate.set()
            assert await asyncio.gather(*asking) == ["first 0", "first 1", "first 2"]
            assert (await stopping).unhandled == {}
            assert await task is None
        async with serving(users(), answers(next_get), **options):
            assert await later in ("next 3", "first 3")
            assert await ask(hub, Get(4)) == "next 4"


async def test_a_stop_that_is_in_a_hurry_leaves_what_hangs_to_the_next_server(
    users: Any, options: Any
) -> None:
    begun = asyncio.Event()

    async def hangs(query: Get) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def get(query: Get) -> int:
        return query.id

    async with process(users(), forwards(Get), **options) as hub:
        async with process(users(), answers(hangs), **options) as server:
            task = asyncio.ensure_future(server.dispatch.init.serve("users"))
            asking = asyncio.ensure_future(ask(hub, Get(1)))
            await asyncio.wait_for(begun.wait(), WAIT)
            await asyncio.wait_for(server.dispatch.init.stop(timeout=0.1), WAIT / 2)
            assert await task is None
        async with serving(users(), answers(get), **options):
            assert await asking == 1


async def test_who_cancels_a_server_gets_its_cancellation_after_what_is_handled(
    users: Any, options: Any
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def get(query: Get) -> int:
        begun.set()
        await gate.wait()
        return query.id

    async with (
        process(users(), answers(get), **options) as server,
        process(users(), forwards(Get), **options) as hub,
    ):
        task = asyncio.ensure_future(server.dispatch.init.serve("users"))
        asking = asyncio.ensure_future(ask(hub, Get(1)))
        await asyncio.wait_for(begun.wait(), WAIT)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asking == 1
        assert server.dispatch.init.running()


async def test_a_command_may_stop_the_process_that_serves_it(users: Any, options: Any) -> None:
    async def stop(hub: Any) -> None:
        await hub.dispatch.init.stop()

    def bind(dispatch: Any) -> None:
        dispatch.queries.bind("stop", stop)

    async with (
        process(users(), bind, **options) as server,
        process(users(), forwards("stop", "other"), **options) as hub,
    ):
        task = asyncio.ensure_future(server.dispatch.init.serve("users"))
        assert await ask(hub, "stop") is None
        assert await asyncio.wait_for(task, WAIT) is None
        # Left to its broker it would stop the next one, too.
        async with serving(users(), bind, **options) as other:
            with pytest.raises(RemoteError, match="no handler for other"):
                await ask(hub, "other")
            assert other.dispatch.init.running()


# A broker fails


def held_once() -> tuple[Any, asyncio.Event, asyncio.Event]:
    """Return a handler of queries; what it sets once it has number 1; and what it then waits for."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def get(query: Get) -> int:
        if query.id == 1 and not begun.is_set():
            begun.set()
            await gate.wait()
        return query.id

    return get, begun, gate


async def test_requests_are_answered_again_after_a_broker_was_killed(
    broken_place: tuple[Any, str], unique: str, options: Any
) -> None:
    node = broken_place[0].mend()
    profiles = contexts(*broken_place, unique)

    get, begun, gate = held_once()

    async with (
        serving(profiles, answers(get), **options),
        process(profiles, forwards(Get), **options) as hub,
    ):
        assert await ask(hub, Get(0)) == 0
        task = asyncio.ensure_future(ask(hub, Get(1), timeout=5))
        await asyncio.wait_for(begun.wait(), WAIT)
        if hasattr(node, "sync"):
            await asyncio.to_thread(node.sync)
        await asyncio.to_thread(node.kill)
        with pytest.raises((DeliveryError, DispatchTimeout)):
            await task
        with pytest.raises((DeliveryError, DispatchTimeout)):
            await ask(hub, Get(2), timeout=0.3)
        await asyncio.to_thread(node.start)
        answer = None
        while answer is None:
            try:
                answer = await ask(hub, Get(3), timeout=5)
            except (DeliveryError, DispatchTimeout):
                continue
        assert answer == 3
        gate.set()


async def test_a_frozen_network_is_an_error_at_the_deadline(
    place: Any, users: Any, proxy: Any, options: Any
) -> None:
    async def get(query: Get) -> int:
        return query.id

    way = proxy(port_of(*place))
    through = users(port=way.port, connect_timeout=60, heartbeat=60)
    async with (
        serving(users(), answers(get), **options),
        process(through, forwards(Get), **options) as hub,
    ):
        await asyncio.to_thread(way.freeze)
        for _ in range(2):  # before there is a link, and with one on its way
            with pytest.raises(DispatchTimeout):
                await ask(hub, Get(1), timeout=0.3)
        await asyncio.to_thread(way.thaw)
        assert await ask(hub, Get(2)) == 2
        await asyncio.to_thread(way.freeze)
        with pytest.raises(DispatchTimeout):
            await ask(hub, Get(3), timeout=0.3)
        await asyncio.to_thread(way.thaw)
        assert await ask(hub, Get(4)) == 4


async def test_a_server_whose_connection_is_cut_goes_on_with_the_next(
    place: Any, users: Any, proxy: Any, options: Any
) -> None:
    get, begun, gate = held_once()

    way = proxy(port_of(*place))
    async with (
        serving(users(port=way.port), answers(get), **options),
        process(users(), forwards(Get), **options) as hub,
    ):
        task = asyncio.ensure_future(ask(hub, Get(1)))
        await asyncio.wait_for(begun.wait(), WAIT)
        await asyncio.to_thread(way.cut)
        # Delivered again, to the same server.
        assert await task == 1
        gate.set()


# What goes beside a message


async def test_requests_with_a_key_are_handled_in_the_order_in_which_they_came(
    users: Any, options: Any
) -> None:
    seen: list[int] = []

    done = asyncio.Event()

    async def get(query: Get) -> None:
        for _ in range(20 - query.id):
            await asyncio.sleep(0)
        seen.append(query.id)
        if query.id == 19:
            done.set()

    async with process(users(), **options) as hub:
        # From who waits for no reply.
        headers = {"evbus-message": "Get", "evbus-key": "k"}
        for number in range(20):
            await hub.evbus.broker.put(body={"id": number}, profile="users", headers=headers)
        async with serving(users(), answers(get), **options):
            await asyncio.wait_for(done.wait(), WAIT)
    assert seen == list(range(20))


async def test_a_command_that_nobody_waits_for_is_handled_and_its_failure_logged(
    users: Any, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names: list[str] = []

    done = asyncio.Semaphore(0)

    async def create(command: Create) -> None:
        names.append(command.name)
        done.release()
        if command.name == "bob":
            raise ValueError("no bobs")

    def bind(dispatch: Any) -> None:
        dispatch.commands.bind(Create, create)

    async with serving(users(), bind, **options):
        async with process(users(), forwards(Create), **options) as hub:
            for name in ("ann", "bob"):
                await hub.dispatch.handle(Create(name=name), key=1)
            for _ in range(2):
                await asyncio.wait_for(done.acquire(), WAIT)
        assert hub.dispatch.init.snapshot()["commands"]["failed"] == 1
    assert names == ["ann", "bob"]
    assert "of Create failed: RemoteError: ValueError: no bobs" in caplog.text


USER: contextvars.ContextVar[str] = contextvars.ContextVar("user")
SESSION = """
    from tests.dispatch.test_remote import USER

    def send(hub, envelope):
        envelope.headers["x-user"] = USER.get()

    async def handle(hub, envelope, call_next):
        token = USER.set(envelope.headers["x-user"])
        try:
            return await call_next(envelope)
        finally:
            USER.reset(token)
"""


async def test_session_and_trace_of_the_caller_are_those_of_the_handler(
    users: Any, options: Any, tmp_path: Path
) -> None:
    plugins = write(tmp_path / "plugins", pipeline__user=SESSION)
    with_session = {**options, "plugin_dirs": [plugins], "pipeline": ["trace", "user"]}
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def get(hub: Any, query: Get) -> list[str]:
        return [USER.get(), hub.dispatch.init.envelope().headers["traceparent"]]

    async with (
        serving(users(), answers(get), **with_session),
        process(users(), forwards(Get), **with_session) as hub,
    ):

        async def asking(user: str) -> Any:
            USER.set(user)
            return await ask(hub, Get(1), headers={"traceparent": trace})

        found = await asyncio.gather(*[asyncio.ensure_future(asking(name)) for name in ("ann", "bob")])
        assert found == [["ann", trace], ["bob", trace]]


# What cannot be set up


async def test_a_profile_that_cannot_be_used_is_told_at_the_start(hub: Any, tmp_path: Path) -> None:
    profiles = {"internal": {"here": {}}}

    hub.dispatch.queries.forward(Get, to="here")
    async with running(hub, profiles):
        with pytest.raises(ProfileError, match="the plugin 'internal' cannot bring replies back"):
            hub.dispatch.init.start()
        assert not hub.dispatch.init.running()
    async with process(profiles, dead_store=tmp_path / "dead.jsonl") as other:
        for name, said in (
            ("here", "the plugin 'internal' cannot send replies; those that can: amqp, stomp"),
            ("hare", "there is no profile 'hare' for requests; did you mean 'here'?"),
        ):
            with pytest.raises(ProfileError, match=said):
                await other.dispatch.init.serve(name)
    with pytest.raises(DispatcherStopped):
        await other.dispatch.init.serve("users", {"amqp": {"users": {"queue": "q", "routing_key": "q"}}})
    with pytest.raises(ConfigError, match="the bus has no profiles yet"):
        await new_hub().dispatch.init.serve("users")


@pytest.mark.parametrize("transport", ["amqp", "stomp"])
async def test_no_password_is_in_what_fails(
    rabbitmq: Any, unique: str, options: Any, caplog: pytest.LogCaptureFixture, transport: str
) -> None:
    said: list[str] = []
    caplog.set_level(logging.DEBUG)
    bad = contexts(rabbitmq, transport, unique)
    url = bad[transport]["users"]["url"].replace("guest:guest@", "guest:hunter22@")
    assert "hunter22" in url
    bad[transport]["users"]["url"] = url
    async with process({"internal": {"x": {}}}, **options) as hub:
        with pytest.raises(ConnectFailed) as caught:
            await hub.dispatch.init.serve("users", bad)
        said.append(str(caught.value) + repr(caught.value))
        link = hub.evbus.rpc.link("users", bad)
        said.extend([repr(link), repr(link.profile)])
    other = {"internal": {"x": {}}, transport: {"users": {**bad[transport]["users"]}}}
    other[transport]["users"]["first_connect"] = "wait"
    async with process(other, forwards(Get), **options) as hub:
        with pytest.raises((DeliveryError, DispatchTimeout)) as failed:
            await ask(hub, Get(1), timeout=0.5)
        said.append(repr(failed.value) + repr(failed.value.__cause__))
    assert len(said) == 4
    assert "hunter22" not in "".join(said) + caplog.text
