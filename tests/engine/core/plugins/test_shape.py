"""What a plugin file has to look like, without POP."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from evbus.engine.core.plugins.shape import CHECKS, check
from evbus.errors import PluginError


async def publish(hub: Any, ctx: Any, body: bytes) -> None: ...
def ready(hub: Any, ctx: Any) -> None: ...
async def waits(hub: Any, ctx: Any) -> None: ...
async def consume(hub: Any, ctx: Any, subscription: Any) -> Any:
    yield 1


async def consume_more(hub: Any, ctx: Any, subscription: Any, *, extra: int = 1) -> Any:
    yield 1


async def returns(hub: Any, ctx: Any, subscription: Any) -> None: ...
async def takes_two(hub: Any, ctx: Any) -> Any:
    yield 1


def module(**names: Any) -> ModuleType:
    made = ModuleType("plugin")
    vars(made).update(names)
    return made


def test_ready_is_a_plain_function_of_the_context() -> None:
    check("ingress", module(publish=publish, ready=ready))
    with pytest.raises(PluginError, match="ready returns what to await and must be plain 'def'") as caught:
        check("ingress", module(publish=publish, ready=waits))
    assert caught.value.line == waits.__code__.co_firstlineno
    with pytest.raises(PluginError, match="ready takes .*, but is called with .hub, ctx."):
        check("ingress", module(publish=publish, ready=lambda hub: None))


@pytest.mark.parametrize("function", [consume, consume_more])
def test_consume_is_an_async_generator(function: Any) -> None:
    check("egress", module(consume=function))


def test_consume_may_be_an_alias() -> None:
    check("egress", module(consume_=consume, __func_alias__={"consume_": "consume"}))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({}, "it has no function consume"),
        ({"consume": 1}, "it has no function consume"),
        ({"consume": returns}, "with a yield in it"),
        ({"consume": takes_two}, "is called with .hub, ctx, subscription."),
    ],
)
def test_what_is_no_source_is_told(names: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        check("egress", module(**names))


def test_configure_of_a_pipeline_plugin_is_a_plain_function_of_the_settings() -> None:
    async def late(hub: Any, settings: Any) -> None: ...

    def send(hub: Any, envelope: Any) -> None: ...

    check("pipeline", module(send=send, configure=lambda hub, settings: None))
    with pytest.raises(PluginError, match="configure runs before any event and must be plain 'def'"):
        check("pipeline", module(send=send, configure=late))
    with pytest.raises(PluginError, match=r"configure takes \(hub\), but is called with \(hub, settings\)"):
        check("pipeline", module(send=send, configure=lambda hub: None))


def test_a_pipeline_plugin_may_take_a_descriptor_and_nothing_more() -> None:
    def send(hub: Any, envelope: Any, descriptor: Any) -> None: ...
    async def handle(hub: Any, envelope: Any, call_next: Any, listener: Any) -> None: ...
    def sends_more(hub: Any, envelope: Any, descriptor: Any, more: Any) -> None: ...
    async def handles_more(hub: Any, envelope: Any, call_next: Any, one: Any, two: Any) -> None: ...

    check("pipeline", module(send=send, handle=handle))
    with pytest.raises(PluginError, match=r"is called with \(hub, envelope, descriptor\)"):
        check("pipeline", module(send=sends_more))
    with pytest.raises(PluginError, match=r"is called with \(hub, envelope, call_next, descriptor\)"):
        check("pipeline", module(handle=handles_more))


async def yields(hub: Any, ctx: Any, component: Any) -> Any:
    yield component


async def invokes(hub: Any, ctx: Any, call: Any, address: Any) -> Any: ...


@pytest.mark.parametrize(
    ("room", "names", "sentence"),
    [
        ("channel", {}, r"it has no function invoke\(hub, ctx, call, address\)"),
        ("channel", {"invoke": lambda hub, ctx, call, address: 5}, "invoke must be 'async def invoke"),
        ("channel", {"invoke": yields}, "invoke must be 'async def invoke"),
        (
            "channel",
            {"invoke": invokes, "stream": invokes},
            "stream must be 'async def stream.* with a yield",
        ),
        ("registry", {"register": invokes}, r"it has no function watch\(hub, ctx, component\)"),
        ("registry", {"watch": invokes}, "watch must be 'async def watch.* with a yield in it"),
        ("registry", {"watch": yields, "deregister": invokes}, "deregister takes .*, but is called with "),
    ],
)
def test_what_is_no_channel_or_registry_is_told(room: str, names: dict[str, Any], sentence: str) -> None:
    check("channel", module(invoke=invokes))
    check("registry", module(watch=yields))
    with pytest.raises(PluginError, match=sentence):
        check(room, module(**names))


def test_the_rooms_that_are_checked() -> None:
    assert set(CHECKS) == {
        "channel",
        "registry",
        "connection",
        "egress",
        "ingress",
        "match",
        "pipeline",
        "serialize",
    }


async def find_later(hub: Any, name: str, pattern: str) -> bool:
    return name == pattern


def find_one(hub: Any, name: str) -> bool:
    return bool(name)


def find_more(hub: Any, name: str, pattern: str, case: bool = True) -> bool:
    return name == pattern and case


def find_other(hub: Any, pattern: str, name: str) -> bool:
    return name == pattern


def find_else(hub: Any, event: str, profile: str) -> bool:
    return event == profile


def find_all(hub: Any, name: str, pattern: str) -> Any:
    yield name == pattern


async def find_each(hub: Any, name: str, pattern: str) -> Any:
    yield name == pattern


def find_any(*args: Any, **kwargs: Any) -> bool:
    return bool(args)


@pytest.mark.parametrize("find", [find_more, find_any, lambda hub, name, pattern, *, x=1: True])
def test_a_match_plugin_is_called_by_position_and_by_name(find: Any) -> None:
    check("match", module(find=find))


@pytest.mark.parametrize(
    ("find", "sentence"),
    [
        (None, r"it has no function find\(hub, name, pattern\)"),
        (find_later, "find answers at once and must be plain 'def', not 'async def'"),
        (find_each, "find answers at once and must be plain 'def', not 'async def'"),
        (find_all, "find answers at once and must be plain 'def', without a yield in it"),
        (find_one, r"find takes \(hub: .*\) .*, but is called with \(hub, name, pattern\)"),
        (find_other, r"find takes \(hub: .*\) .*, but its parameters are \(hub, name, pattern\)"),
        (find_else, r"find takes \(hub: .*\) .*, but its parameters are \(hub, name, pattern\)"),
        (lambda hub, name, pattern, case: True, "but is called with"),
        (lambda hub, name, pattern, *, case: True, "but is called with"),
    ],
)
def test_what_is_no_matcher_is_told(find: Any, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence) as caught:
        check("match", module(**({} if find is None else {"find": find})))
    assert find is None or caught.value.line == find.__code__.co_firstlineno


def take(hub: Any, data: Any) -> Any:
    return data


def take_more(hub: Any, data: Any, indent: int | None = None) -> Any:
    return (data, indent)


async def take_later(hub: Any, data: Any) -> Any:
    return data


def take_none(hub: Any) -> Any:
    return hub


def test_a_serialize_plugin_has_two_plain_functions() -> None:
    check("serialize", module(apply=take_more, load=take))
    for names, sentence in (
        ({"apply": take}, r"it has no function load\(hub, data\)"),
        ({"load": take}, r"it has no function apply\(hub, data\)"),
        ({"apply": take_later, "load": take}, "apply runs wherever an event is put and must be plain 'def'"),
        ({"apply": take, "load": take_later}, "load runs wherever one is read and must be plain 'def'"),
        ({"apply": take_none, "load": take}, r"apply takes .*, but is called with \(hub, data\)"),
    ):
        with pytest.raises(PluginError, match=sentence):
            check("serialize", module(**names))


def test_a_connection_plugin_opens_and_closes() -> None:
    async def open_(hub: Any, ctx: Any, role: str = "lanes") -> None: ...
    async def close(hub: Any, connection: Any) -> None: ...

    check("connection", module(open=open_, close=close))
    for names, sentence in (
        ({"close": close}, "it has no function open"),
        ({"open": open_}, "it has no function close"),
        ({"open": lambda hub, ctx: None, "close": close}, "open must be 'async def open"),
        ({"open": open_, "close": take_later}, None),
        ({"open": open_, "close": lambda hub: None}, "close must be 'async def close"),
    ):
        if sentence is None:
            check("connection", module(**names))
            continue
        with pytest.raises(PluginError, match=sentence):
            check("connection", module(**names))


def test_what_else_sources_and_destinations_may_have_is_checked() -> None:
    async def request(hub: Any, ctx: Any, event: Any, timeout: float) -> None: ...
    async def reply(hub: Any, ctx: Any, address: str) -> None: ...
    async def attach(hub: Any, ctx: Any, subscription: Any, take: Any) -> None: ...

    check("ingress", module(publish=publish, request=request))
    with pytest.raises(PluginError, match=r"reply takes .*, but is called with \(hub, ctx, address, event\)"):
        check("ingress", module(publish=publish, reply=reply))
    with pytest.raises(PluginError, match="attach may not wait and must be plain 'def'"):
        check("egress", module(consume=consume, attach=attach))
