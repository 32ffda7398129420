from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.api import session
from evbus.errors import InvalidHeader, Rejected
from evbus.types import Envelope

TEXTS = st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=10)


def send(hub: Any, **headers: str) -> dict[str, str]:
    envelope = Envelope("p", "k", b"", dict(headers))
    assert hub.pipeline.session.send(envelope) is None
    return envelope.headers


async def handle(hub: Any, headers: dict[str, str], handler: Callable[[Envelope], Awaitable[Any]]) -> Any:
    return await hub.pipeline.session.handle(Envelope("p", "k", b"", headers), handler)


async def current(envelope: Envelope) -> dict[str, str]:
    return dict(session.current())


def test_there_is_no_session_at_first_and_no_header(room: Any) -> None:
    assert session.current() == {}
    assert send(room) == {}
    with session.use():
        assert send(room) == {}


def test_a_session_is_one_header(room: Any) -> None:
    with session.use(user="joe", tenant="acmé"):
        assert send(room) == {"evbus-session": '{"user":"joe","tenant":"acm\\u00e9"}'}
    assert send(room) == {}


def test_an_inner_session_adds_to_the_outer_one_and_ends(room: Any) -> None:
    with session.use(user="joe", tenant="a"):
        with session.use(tenant="b") as inner:
            assert session.current() == inner == {"user": "joe", "tenant": "b"}
        assert session.current() == {"user": "joe", "tenant": "a"}
    assert session.current() == {}


def test_a_session_cannot_be_changed_but_by_use() -> None:
    with session.use(user="joe") as values, pytest.raises(TypeError):
        values["user"] = "eve"  # type: ignore[index]


def test_a_session_ends_when_the_block_raises() -> None:
    with pytest.raises(KeyError), session.use(user="joe"):
        raise KeyError
    assert session.current() == {}


def test_tasks_and_contexts_have_sessions_of_their_own() -> None:
    def inner() -> dict[str, str]:
        with session.use(tenant="b"):
            return dict(session.current())

    with session.use(user="joe"):
        assert contextvars.copy_context().run(inner) == {"user": "joe", "tenant": "b"}
        assert contextvars.Context().run(inner) == {"tenant": "b"}


def test_what_is_no_string_is_refused_by_name_and_not_by_value() -> None:
    with pytest.raises(InvalidHeader) as caught, session.use(user="joe", pin=4711):  # type: ignore[arg-type]
        pass
    assert str(caught.value) == "a session holds strings, but 'pin' is a int"


def test_a_session_beyond_8_kib_is_refused() -> None:
    with session.use(x="a" * (8192 - len('{"x":""}'))):
        assert len(session.text()) == 8192
    with (
        pytest.raises(InvalidHeader, match="the session has 8193 bytes in JSON, more than the 8192"),
        session.use(x="a" * (8193 - len('{"x":""}'))),
    ):
        pass


def test_the_session_of_the_context_wins_over_a_header_that_was_taken_along(room: Any) -> None:
    assert send(room, **{"evbus-session": '{"user":"eve"}'}) == {"evbus-session": '{"user":"eve"}'}
    with session.use(user="joe"):
        assert send(room, **{"evbus-session": '{"user":"eve"}'}) == {"evbus-session": '{"user":"joe"}'}


async def test_a_handler_runs_in_the_session_of_its_event_and_no_other(room: Any) -> None:

    with session.use(user="outer"):
        assert await handle(room, {"evbus-session": '{"user":"joe"}'}, current) == {"user": "joe"}
        assert await handle(room, {}, current) == {}
        assert session.current() == {"user": "outer"}


async def test_what_a_handler_puts_has_the_session_of_its_event(room: Any) -> None:

    async def handler(envelope: Envelope) -> dict[str, str]:
        return send(room)

    given = {"evbus-session": '{"user":"joe"}'}
    assert await handle(room, given, handler) == given


async def test_the_session_before_is_restored_when_the_handler_raises(room: Any) -> None:

    async def handler(envelope: Envelope) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await handle(room, {"evbus-session": '{"user":"joe"}'}, handler)
    assert session.current() == {}


@pytest.mark.parametrize(
    "header",
    ["", "x", "[]", "null", '{"a":1}', '{"a":null}', '{"a":{}}', '{"a":"b"', '{"a":"hush\ud800"}', "{}x"],
)
def test_a_header_that_holds_no_session_is_rejected_without_what_it_holds(room: Any, header: str) -> None:
    with pytest.raises(Rejected, match="the header evbus-session is no JSON object of strings") as caught:
        asyncio.run(handle(room, {"evbus-session": header}, current))
    assert "hush" not in str(caught.value)


def test_a_header_that_is_too_large_is_rejected_unread(room: Any) -> None:
    header = json.dumps({"a": "b" * 9000})
    with pytest.raises(Rejected, match="more than 8192"):
        asyncio.run(handle(room, {"evbus-session": header}, current))


@given(values=TEXTS)
def test_whatever_strings_are_used_arrive(values: dict[str, str]) -> None:
    with session.use(**values):
        text = session.text()
    assert text.isascii()
    assert session.read(text or None).values == values
    assert "\n" not in text


def test_session_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.session.__optional__ is True
