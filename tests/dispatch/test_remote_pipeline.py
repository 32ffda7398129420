"""Pipeline plugins around commands and queries between processes, over RabbitMQ and ActiveMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evbus.api import session
from evbus.errors import DeliveryTimeout, Rejected, RemoteError
from evbus.types import Envelope
from tests.dispatch.remote_kit import Create, Get, contexts, process, serving
from tests.evbus.kit import WAIT, write

TRANSPORTS = {"amqp": ("rabbitmq", "amqp"), "stomp": ("rabbitmq", "stomp"), "activemq": ("activemq", "stomp")}
MOST = 120.0  # seconds; a broker may have to be started

ALL = ("session", "trace", "stamp", "dedupe", "compress", "sign")
KEYS = ("2026:0123456789abcdef",)
LONG = ["again"] * 1000

SPY = """
    from tests.dispatch.test_remote_pipeline import see

    def send(hub, envelope):
        see("send", envelope)

    async def handle(hub, envelope, call_next):
        see("handle", envelope)
        return await call_next(envelope)
"""
#: Alters what was signed, when it comes behind `sign`.
TAMPER = """
    def send(hub, envelope):
        envelope.headers["evbus-session"] = '{"user":"mallory"}'
"""
SEEN: list[tuple[str, str, Envelope]] = []
WATCHERS: list[Callable[[], None]] = []

Profiles = dict[str, Any]


def see(what: str, envelope: Envelope) -> None:
    SEEN.append((what, envelope.routing_key, envelope))
    for watcher in WATCHERS:
        watcher()


@pytest.fixture(params=TRANSPORTS, scope="session")
def place(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """Return a broker and what is spoken with it, for each transport."""
    fixture, transport = TRANSPORTS[request.param]
    return request.getfixturevalue(fixture), transport


@pytest.fixture
def users(place: tuple[Any, str], unique: str) -> Profiles:
    return contexts(*place, unique)


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return what makes the options of a process with these plugins, of which `spy` fills `SEEN`."""
    SEEN.clear()
    WATCHERS.clear()
    folder = write(tmp_path / "plugins", pipeline__spy=SPY, pipeline__tamper=TAMPER)
    return lambda *pipeline, **more: {
        "dead_store": tmp_path / "dead.jsonl",
        "plugin_dirs": [folder],
        "pipeline": pipeline or ALL,
        "sign_keys": KEYS,
        **more,
    }


async def ask(hub: Any, message: Any, **how: Any) -> Any:
    return await asyncio.wait_for(hub.dispatch.handle(message, wait_for_response=True, **how), 2 * WAIT)


def serves(dispatch: Any) -> None:
    async def get(hub: Any, query: Get) -> Any:
        if query.id == 0:
            raise LookupError(f"nothing for {session.current()['user']}")
        return [query.id, dict(session.current()), hub.dispatch.init.envelope().headers]

    async def create(command: Create) -> Any:
        return command.roles

    dispatch.queries.bind(Get, get)
    dispatch.commands.bind(Create, create)


def forwards(dispatch: Any) -> None:
    dispatch.queries.forward(Get, to="users")
    dispatch.commands.forward(Create, to="users")


async def test_with_all_of_them_at_both_ends_requests_and_replies_are_what_they_were(
    users: Profiles, options: Any
) -> None:
    chosen = options(*ALL, "spy")
    async with serving(users, serves, **chosen), process(users, forwards, **chosen) as hub:
        with session.use(user="joe", tenant="acmé"):
            for number in (1, 2):
                found, values, headers = await ask(hub, Get(number))
                assert (found, values) == (number, {"user": "joe", "tenant": "acmé"})
                assert headers["evbus-signature"]
            with pytest.raises(RemoteError, match="LookupError: nothing for joe"):
                await ask(hub, Get(0))
            SEEN.clear()
            assert await ask(hub, Create(name="ann", roles=LONG)) == LONG
    # Each message goes out and comes in once: the request, and the reply.
    assert [(what, name) for what, name, _ in SEEN] == [("send", "Create"), ("handle", "Create")] * 2
    request, reply = (envelope for what, _, envelope in SEEN if what == "handle")
    for came in (request, reply):
        assert len(came.body) < 200
        assert came.headers["content-encoding"]
        assert came.headers["evbus-session"] == '{"user":"joe","tenant":"acm\\u00e9"}'
        assert came.headers["evbus-signature"]
    assert reply.headers["evbus-answers"] == request.headers["ce-id"] != reply.headers["ce-id"]
    assert reply.headers["traceparent"].split("-")[1] == request.headers["traceparent"].split("-")[1]


async def test_a_command_that_nobody_waits_for_goes_in_the_session_it_was_handed_over_in(
    users: Profiles, options: Any
) -> None:
    found: asyncio.Queue[Any] = asyncio.Queue()

    async def create(command: Create) -> None:
        found.put_nowait((command.name, dict(session.current())))

    def bind(dispatch: Any) -> None:
        dispatch.commands.bind(Create, create)

    async with serving(users, bind, **options()), process(users, forwards, **options()) as hub:
        with session.use(user="joe"):
            await hub.dispatch.handle(Create(name="ann"))
        assert await asyncio.wait_for(found.get(), WAIT) == ("ann", {"user": "joe"})


@pytest.mark.parametrize(
    ("sender", "server", "kind", "said"),
    [
        ((*ALL, "tamper"), ALL, RemoteError, "Rejected: the signature of the event is wrong: it was altered"),
        (ALL[:-1], ALL, RemoteError, "Rejected: the event is not signed: it has no header evbus-signature"),
        (ALL, (*ALL, "tamper"), Rejected, "the reply to Get is refused: the signature of the event is wrong"),
        (ALL, ALL[:-1], Rejected, "the reply to Get is refused: the event is not signed"),
    ],
)
async def test_what_is_altered_or_not_signed_is_an_error_and_not_handled(
    users: Profiles, options: Any, sender: Any, server: Any, kind: Any, said: str
) -> None:
    handled: list[Any] = []

    async def get(query: Get) -> int:
        handled.append(query)
        return query.id

    def bind(dispatch: Any) -> None:
        dispatch.queries.bind(Get, get)

    async with (
        serving(users, bind, **options(*server)),
        process(users, forwards, **options(*sender)) as hub,
    ):
        with session.use(user="joe"), pytest.raises(kind) as caught:
            await ask(hub, Get(1))
        assert str(caught.value).startswith(said)
    assert bool(handled) == (kind is Rejected)


async def test_who_does_not_sign_learns_nothing_of_what_is_served(users: Profiles, options: Any) -> None:
    def bind(dispatch: Any) -> None:
        dispatch.queries.forward("secret", to="users")

    async with serving(users, serves, **options()):
        async with process(users, bind, **options("stamp")) as hub:
            with pytest.raises(RemoteError, match="Rejected: the event is not signed"):
                await ask(hub, "secret")
        async with process(users, bind, **options()) as hub:
            with pytest.raises(RemoteError, match="HandlerDoesNotExist: there is no handler for secret"):
                await ask(hub, "secret")


@pytest.mark.parametrize("drops", [False, True])
async def test_a_request_that_is_sent_again_by_others_is_not_handled_again(
    users: Profiles, options: Any, drops: bool
) -> None:
    handled: list[Any] = []

    async def get(query: Get) -> int:
        handled.append(query)
        return query.id

    def bind(dispatch: Any) -> None:
        dispatch.queries.bind(Get, get)

    # Whichever comes behind the other sees it first: sign refuses, dedupe drops.
    pipeline = ("stamp", "sign", "dedupe") if drops else ("stamp", "dedupe", "sign")
    async with (
        serving(users, bind, **options(*pipeline, "spy")),
        process(users, forwards, **options(*pipeline)) as hub,
        process(users, **options("trace")) as other,
    ):
        assert await ask(hub, Get(1)) == 1
        request = SEEN[0][2]
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in ("reply-to", "correlation-id", "expiration", "expires", "timestamp")
        }
        link = other.evbus.rpc.link("users")
        try:
            if drops:
                with pytest.raises(DeliveryTimeout):
                    await link.request(request.replace(headers=headers), 0.5)
            else:
                reply = await link.request(request.replace(headers=headers), WAIT)
                assert reply.headers["evbus-outcome"] == "error"
                assert b"the event is a replay" in reply.body
        finally:
            await link.close()
    assert handled == [Get(1)]


@pytest.mark.parametrize("last", ["sign", "dedupe"])
async def test_a_request_that_is_delivered_again_while_it_is_handled_gets_the_reply_of_the_first(
    place: Any, users: Profiles, options: Any, proxy: Any, unique: str, last: str
) -> None:
    handled: list[Any] = []
    node, transport = place

    begun, gate, again = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def get(query: Get) -> int:
        handled.append(query)
        begun.set()
        await gate.wait()
        return query.id

    def bind(dispatch: Any) -> None:
        dispatch.queries.bind(Get, get)

    way = proxy(node.port if transport == "amqp" else node.stomp_port)
    pipeline = ("stamp", "dedupe", "sign") if last == "sign" else ("stamp", "sign", "dedupe")
    async with (
        serving(contexts(node, transport, unique, port=way.port), bind, **options(*pipeline, "spy")),
        process(users, forwards, **options(*pipeline)) as hub,
    ):
        task = asyncio.ensure_future(ask(hub, Get(7)))
        await asyncio.wait_for(begun.wait(), WAIT)
        WATCHERS.append(again.set)
        await asyncio.to_thread(way.cut)
        await asyncio.wait_for(again.wait(), WAIT)
        gate.set()
        assert await task == 7
    assert handled == [Get(7)]


async def test_messages_that_go_out_with_the_headers_of_the_one_being_handled_are_others(
    users: Profiles, options: Any
) -> None:
    async def both(hub: Any) -> Any:
        headers = hub.dispatch.init.envelope().headers
        return [headers, *[await ask(hub, Get(number), headers=headers) for number in (1, 2)]]

    def bind(dispatch: Any) -> None:
        forwards(dispatch)
        dispatch.commands.bind("both", both)

    async with serving(users, serves, **options()), process(users, bind, **options()) as hub:
        with session.use(user="joe"):
            own, (one, session_one, first), (two, session_two, second) = await ask(hub, "both")
    assert (one, two) == (1, 2)
    assert session_one == session_two == {"user": "joe"}
    assert len({headers["ce-id"] for headers in (own, first, second)}) == 3
    assert len({headers["traceparent"].split("-")[1] for headers in (own, first, second)}) == 1
    assert first["ce-type"] == "Get"


async def test_who_does_not_decompress_is_told_so(users: Profiles, options: Any) -> None:
    compresses = options("compress")
    plain = options("stamp")
    async with serving(users, serves, **plain), process(users, forwards, **compresses) as hub:
        with pytest.raises(RemoteError, match="the option pipeline may need compress here, too"):
            await ask(hub, Create(name="ann", roles=LONG))


async def test_a_server_signs_anew_what_its_handler_forwards(
    users: Profiles, options: Any, unique: str
) -> None:
    """From one process over a second to a third, all with all plugins."""

    (transport,) = users
    others = {
        transport: {
            name: {
                key: value.replace(unique, f"{unique}-{name}") if isinstance(value, str) else value
                for key, value in users[transport]["users"].items()
            }
            for name in ("users", "next")
        }
    }

    async def create(hub: Any, command: Create) -> Any:
        headers = hub.dispatch.init.envelope().headers
        return [await ask(hub, Get(number), headers=headers) for number in (1, 2)]

    def bind_next(dispatch: Any) -> None:
        dispatch.queries.forward(Get, to="next")
        dispatch.commands.bind(Create, create)

    async with process(others, serves, **options()) as third:
        task = asyncio.ensure_future(third.dispatch.init.serve("next"))
        async with (
            serving(others, bind_next, **options()),
            process(others, forwards, **options()) as hub,
        ):
            with session.use(user="joe"):
                first, second = await ask(hub, Create(name="ann", roles=LONG))
        assert [first[:2], second[:2]] == [[1, {"user": "joe"}], [2, {"user": "joe"}]]
        assert first[2]["ce-id"] != second[2]["ce-id"]
    await asyncio.wait_for(task, WAIT)
