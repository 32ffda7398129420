"""From profiles to lanes."""

from __future__ import annotations

import asyncio
import fnmatch
from typing import Any

import msgspec
import pytest

from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.lifecycle.plan import connect
from evbus.engine.core.profiles import read_profiles
from evbus.engine.core.queue import Queue
from evbus.engine.kit.topics import ends_of_glob
from evbus.errors import PluginError, ProfileError
from evbus.types import Envelope
from tests.evbus.rig import failure


class Settings(msgspec.Struct, frozen=True):
    url: str = ""
    routing_key: str | None = None


def lanes(contexts: Any, publish: Any, schema: Any = None) -> Any:
    async def bound(ctx: Any, **arguments: Any) -> None:
        await publish(None, ctx, **arguments)

    plugin = Plugin("sink", ("sink",), schema, {"publish": bound}, publish=publish)
    profiles = read_profiles(contexts, [plugin], source="p", find=fnmatch.fnmatchcase, broken={})
    return connect(profiles, Queue(), lambda lane, dead: None, find=fnmatch.fnmatchcase, source="p")


def sent(data: dict[str, Any], event: Envelope, schema: Any = None) -> tuple[Any, dict[str, Any]]:
    calls: list[Any] = []

    async def publish(hub: Any, ctx: Any, routing_key: str, body: bytes, headers: dict[str, str]) -> None:
        calls.append((ctx, {"routing_key": routing_key, "body": body, "headers": headers}))

    (connection,) = lanes({"sink": {"orders.*": data}}, publish, schema)
    assert asyncio.run(connection.sender.send([event])) == [None]
    (call,) = calls
    return call[0], call[1]


EVENT = Envelope("orders.eu", "paid", b"1", {"a": "b"})


def test_the_context_of_a_plugin_holds_the_profile_as_written_and_as_checked() -> None:
    data = {"url": "x", "delivery": {"batch": 1}}
    ctx, _ = sent(data, EVENT, Settings)
    assert (ctx.acct, ctx.acct.url) == ({"url": "x"}, "x")
    assert ctx.profile == Settings(url="x")
    assert (ctx.name, ctx.provider, ctx.state) == ("orders.*", "sink", None)


def test_nobody_finds_a_secret_in_the_repr_of_a_context_or_a_lane() -> None:
    async def publish(hub: Any, ctx: Any, body: bytes) -> None:
        raise ConnectionError(f"cannot reach {ctx}")

    data = {"url": "amqp://joe:hunter22@host", "password": "hunter23", "deep": {"token": "hunter24"}}
    (connection,) = lanes({"sink": {"a": data}}, publish)
    (problem,) = asyncio.run(connection.sender.send([EVENT]))
    assert "hunter" not in f"{problem} {connection} {connection.sender!r}"


@pytest.mark.parametrize(
    ("template", "key"),
    [
        (None, "paid"),
        ("{routing_key}", "paid"),
        ("fixed", "fixed"),
        ("", ""),
        ("x.{routing_key}.{profile}", "x.paid.orders.eu"),
        ("{{{routing_key}}}", "{paid}"),
        ("{{x}}", "{x}"),
    ],
)
def test_the_routing_key_of_a_profile_is_a_template(template: str | None, key: str) -> None:
    data = {} if template is None else {"routing_key": template}
    assert sent(data, EVENT)[1] == {"routing_key": key, "body": b"1", "headers": {"a": "b"}}


def test_braces_in_the_key_of_an_event_are_text() -> None:
    assert (
        sent({"routing_key": "a.{routing_key}"}, Envelope("orders.x", "{profile}"))[1]["routing_key"]
        == "a.{profile}"
    )


async def quiet(hub: Any, ctx: Any, body: bytes) -> None:
    """Take everything."""


def test_a_dead_letter_profile_is_found_by_matching() -> None:
    found = lanes({"sink": {"a": {"delivery": {"dead_letter": "dead.a"}}, "dead.*": {}}}, quiet)
    assert [str(one.key) for one in found] == ["sink.sink.a", "sink.sink.dead.*"]


def test_a_dead_letter_that_names_no_profile_is_refused_with_the_nearest() -> None:
    assert failure(
        ProfileError, lanes, {"sink": [{"a": {"delivery": {"dead_letter": "ded"}}}, {"dead": {}}]}, quiet
    ) == ("p: sink[0].a.delivery.dead_letter: no profile matches 'ded'; did you mean 'dead'?")


def test_a_publish_with_unknown_parameters_makes_no_lane() -> None:
    async def publish(hub: Any, ctx: Any, topic: str, body: bytes) -> None:
        """Never called."""

    with pytest.raises(PluginError, match="publish takes the parameter 'topic', which the bus does not know"):
        lanes({"sink": {"a": {}}}, publish)


def test_dead_letter_profiles_are_looked_for_once_and_not_among_all() -> None:
    asked: list[str] = []

    def find(name: str, pattern: str) -> bool:
        asked.append(pattern)
        return fnmatch.fnmatchcase(name, pattern)

    contexts = {
        "sink": {f"p{number}": {"delivery": {"dead_letter": f"d{number % 2}"}} for number in range(200)}
    }
    contexts["sink"] |= {"d0": {}, "d1": {}}

    async def publish(hub: Any, ctx: Any, body: bytes) -> None: ...

    plugin = Plugin("sink", ("sink",), functions={"publish": publish}, publish=publish)
    profiles = read_profiles(contexts, [plugin], source="p", find=fnmatch.fnmatchcase, broken={})
    made = connect(profiles, Queue(), lambda lane, dead: None, find=find, source="p", ends=ends_of_glob)
    assert (len(made), asked) == (202, ["d0", "d1"])
