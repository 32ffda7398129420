"""Replies that cannot be sent, over RabbitMQ and ActiveMQ: each request is handled once, and settled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from evbus.errors import RemoteError
from tests.dispatch.remote_kit import Get, contexts, process, serving
from tests.dispatch.test_remote import answers, ask, forwards, options, place, port_of  # noqa: F401 - fixtures
from tests.evbus.kit import WAIT
from tests.ingress.amqp_kit import eventually, set_largest
from tests.ingress.poison_kit import BAD, breaking

TOLD = "it was handled, and its reply could not be sent: "


class Handler:
    """Answers with ``replies[0]``, and counts what it handles."""

    def __init__(self, bad: Any) -> None:
        self.bad = bad
        self.handled: list[int] = []

    def bind(self, dispatch: Any) -> None:
        async def get(query: Get) -> Any:
            self.handled.append(query.id)
            return self.bad if query.id == 0 else query.id

        answers(get)(dispatch)


async def asked(profiles: Any, handler: Handler, told: str, options: Any) -> None:  # noqa: F811 - no fixture
    """Ask for what cannot be sent, and see that the error comes, and then the next answer."""
    async with process(profiles, forwards(Get), **options) as hub:
        with pytest.raises(RemoteError) as caught:
            await ask(hub, Get(0), timeout=WAIT)
        assert caught.value.type == "DeliveryError"
        assert caught.value.reason.startswith(TOLD)
        assert told in caught.value.reason
        assert await ask(hub, Get(1)) == 1
    assert handler.handled[-1] == 1


async def test_a_reply_that_the_broker_does_not_take_is_an_error_reply(
    broken_rabbitmq: Any, unique: str, tmp_path: Path
) -> None:
    set_largest(broken_rabbitmq, 10_000)
    profiles = contexts(broken_rabbitmq, "amqp", unique)
    handler = Handler("x" * 10_001)
    options = {"dead_store": tmp_path / "dead.jsonl"}  # noqa: F811

    try:
        async with serving(profiles, handler.bind, **options):
            await asked(profiles, handler, "is larger than configured max size 10000", options)
    finally:
        set_largest(broken_rabbitmq, 134_217_728)
    assert handler.handled == [0, 1]


async def test_a_reply_that_breaks_each_connection_is_an_error_reply_and_its_request_ends(
    place: Any,  # noqa: F811
    unique: str,
    proxy: Any,
    options: Any,  # noqa: F811
) -> None:
    way = proxy(port_of(*place))
    way.filter("up", breaking)
    handler = Handler(BAD)

    async with serving(contexts(*place, unique, port=way.port), handler.bind, **options):
        await asked(contexts(*place, unique), handler, "the connection was lost", options)
    # Once more, if it came again before the first one had failed to be answered for the first time.
    assert handler.handled in ([0, 1], [0, 0, 1])


async def test_a_request_of_who_is_gone_is_done_and_counted(
    rabbitmq: Any, unique: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profiles = contexts(rabbitmq, "amqp", unique)
    handler = Handler(0)
    options = {"dead_store": tmp_path / "dead.jsonl"}  # noqa: F811

    with caplog.at_level(logging.WARNING):
        async with (
            serving(profiles, handler.bind, **options),
            process(profiles, forwards(Get), **options) as hub,
        ):
            assert await ask(hub, Get(1)) == 1
            headers = {"evbus-message": "Get", "reply-to": f"{unique}-gone", "correlation-id": "1"}
            await hub.evbus.broker.put(routing_key=unique, body={"id": 0}, profile="users", headers=headers)
            said = "Get was handled, and its reply could not be sent"
            await eventually(lambda: said in caplog.text, "the request is given up")
            assert await ask(hub, Get(2)) == 2
    assert handler.handled == [1, 0, 2]
    assert rabbitmq.depth(unique).messages == 0
