"""Pipeline plugins around handlers in this process."""

from __future__ import annotations

import contextvars
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import Rejected
from tests.dispatch.hub_kit import CreateUser, UserCreated, UserQuery, new_hub, started
from tests.evbus.kit import write


async def echo(message: Any) -> Any:
    return message


SESSION = """
    import contextvars

    from evbus.errors import Rejected
    from tests.dispatch.test_interceptors import USER, SEEN

    def send(hub, envelope):
        SEEN.append(("send", envelope.routing_key))
        if envelope.routing_key == "forbidden":
            raise Rejected("nobody may send this")
        envelope.headers.setdefault("x-user", USER.get())

    async def handle(hub, envelope, call_next):
        user = envelope.headers["x-user"]
        if user == "mallory":
            raise Rejected("mallory may not do this")
        token = USER.set(user)
        try:
            return await call_next(envelope)
        finally:
            USER.reset(token)
"""

USER: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
SEEN: list[Any] = []


@pytest.fixture
def seen() -> list[Any]:
    SEEN.clear()
    return SEEN


@pytest.fixture
def with_session(tmp_path: Path, seen: list[Any]) -> Any:
    """Return a hub with a plugin that carries the user of a session to the handlers."""
    return new_hub(plugin_dirs=[write(tmp_path / "plugins", pipeline__user=SESSION)])


async def test_a_session_reaches_the_handler_through_a_header(with_session: Any) -> None:
    hub = with_session
    users = []

    async def who(hub: Any, message: Any) -> str:
        envelope = hub.dispatch.init.envelope()
        users.append((USER.get(), envelope.headers, envelope.routing_key))
        return USER.get()

    hub.dispatch.queries.bind(UserQuery, who)
    hub.dispatch.events.bind(UserCreated, who)

    async with started(hub):
        assert hub.dispatch.init.envelope() is None
        USER.set("ann")
        assert await hub.dispatch.handle(UserQuery(), wait_for_response=True) == "ann"
        await hub.dispatch.handle(UserCreated(), headers={"x-user": "bob", "a": "b"})
        USER.set("eve")
    assert users == [
        ("ann", {"x-user": "ann"}, "UserQuery"),
        ("bob", {"x-user": "bob", "a": "b"}, "UserCreated"),
    ]


async def test_what_a_handler_sends_belongs_to_the_session_of_its_message(with_session: Any) -> None:
    hub = with_session
    users = []

    @hub.dispatch.commands.register(CreateUser, response_event=UserCreated)
    async def create(command: CreateUser) -> UserCreated:
        return UserCreated()

    @hub.dispatch.events.register(UserCreated)
    async def created() -> None:
        users.append(USER.get())

    async with started(hub):
        await hub.dispatch.handle(CreateUser(), headers={"x-user": "ann"})
        await hub.dispatch.handle(CreateUser(), wait_for_response=True, headers={"x-user": "bob"})
    assert sorted(users) == ["ann", "bob"]


async def test_what_send_refuses_reaches_the_sender_and_is_not_handled(with_session: Any) -> None:
    hub = with_session
    hub.dispatch.commands.bind("forbidden", echo)

    async with started(hub):
        for waits in (False, True):
            with pytest.raises(Rejected, match="nobody may send this"):
                await hub.dispatch.handle("forbidden", wait_for_response=waits)
    counts = hub.dispatch.init.snapshot()["commands"]
    assert (counts["handled"], counts["failed"]) == (0, 0)


async def test_what_handle_refuses_is_a_failure_of_the_handler(
    with_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub = with_session
    hub.dispatch.commands.bind(CreateUser, echo)
    mallory = {"x-user": "mallory"}

    async with started(hub):
        with pytest.raises(Rejected, match="mallory may not do this"):
            await hub.dispatch.handle(CreateUser(), wait_for_response=True, headers=mallory)
        assert caplog.text == ""
        await hub.dispatch.handle(CreateUser(), headers=mallory)
    assert "of CreateUser failed: Rejected: mallory may not do this" in caplog.text
    assert hub.dispatch.init.snapshot()["commands"]["failed"] == 2


async def test_send_runs_once_for_a_message_and_handle_around_each_handler(
    tmp_path: Path, seen: list[Any]
) -> None:
    step = """
        from tests.dispatch.test_interceptors import SEEN

        def send(hub, envelope):
            SEEN.append("send {name}")

        async def handle(hub, envelope, call_next):
            SEEN.append("before {name}")
            try:
                return await call_next(envelope)
            finally:
                SEEN.append("after {name}")
    """
    root = write(tmp_path / "plugins", pipeline__a=step.format(name="a"), pipeline__b=step.format(name="b"))
    hub = new_hub(plugin_dirs=[root], pipeline=["b", "a"])

    async def handler(event: UserCreated) -> None:
        seen.append("handler")

    hub.dispatch.events.bind(UserCreated, handler)
    hub.dispatch.events.bind(object, handler)

    async with started(hub):
        await hub.dispatch.handle(UserCreated())
    # What was done last is undone first.
    one = ["before a", "before b", "handler", "after b", "after a"]
    assert seen == ["send b", "send a", *one, *one]


async def test_plugins_with_send_alone_see_nothing_in_process(tmp_path: Path, seen: list[Any]) -> None:
    send = """
        from tests.dispatch.test_interceptors import SEEN

        def send(hub, envelope):
            SEEN.append(envelope)
    """
    hub = new_hub(plugin_dirs=[write(tmp_path / "plugins", pipeline__a=send)])
    hub.dispatch.queries.bind(UserQuery, echo)

    async with started(hub):
        await hub.dispatch.handle(UserQuery(), wait_for_response=True)
    assert seen == []


async def test_a_handler_runs_in_the_trace_of_its_sender() -> None:
    hub = new_hub(pipeline=["trace"])
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    traces: list[str] = []

    @hub.dispatch.commands.register(CreateUser, response_event=UserCreated)
    async def create(hub: Any, command: CreateUser) -> UserCreated:
        traces.append(hub.dispatch.init.envelope().headers["traceparent"])
        await hub.evbus.broker.put(routing_key="k", body=1)
        return UserCreated()

    @hub.dispatch.events.register(UserCreated)
    async def created(hub: Any) -> None:
        traces.append(hub.dispatch.init.envelope().headers["traceparent"])

    async with started(hub):
        await hub.dispatch.handle(CreateUser(), headers={"traceparent": given})
    traces.append((await hub.evbus.broker.get()).headers["traceparent"])
    assert traces[0] == given
    assert [trace.split("-")[1] for trace in traces] == [given.split("-")[1]] * 3


async def test_the_envelope_is_there_for_messages_with_headers_without_any_plugin(hub: Any) -> None:
    async def headers(hub: Any, message: UserQuery) -> Any:
        envelope = hub.dispatch.init.envelope()
        return envelope and envelope.headers

    hub.dispatch.queries.bind(UserQuery, headers)

    async with started(hub):
        assert [
            await hub.dispatch.handle(UserQuery(), wait_for_response=True),
            await hub.dispatch.handle(UserQuery(), wait_for_response=True, headers={"a": "b"}),
        ] == [None, {"a": "b"}]
