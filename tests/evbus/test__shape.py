"""What a plugin file has to look like, without POP."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from evbus.errors import PluginError
from evbus.evbus._shape import CHECKS, check_egress, check_ingress, check_pipeline


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
    check_ingress(module(publish=publish, ready=ready))
    with pytest.raises(PluginError, match="ready returns what to await and must be plain 'def'") as caught:
        check_ingress(module(publish=publish, ready=waits))
    assert caught.value.line == waits.__code__.co_firstlineno
    with pytest.raises(PluginError, match="ready takes .*, but is called with .hub, ctx."):
        check_ingress(module(publish=publish, ready=lambda hub: None))


@pytest.mark.parametrize("function", [consume, consume_more])
def test_consume_is_an_async_generator(function: Any) -> None:
    check_egress(module(consume=function))


def test_consume_may_be_an_alias() -> None:
    check_egress(module(consume_=consume, __func_alias__={"consume_": "consume"}))


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
        check_egress(module(**names))


def test_configure_of_a_pipeline_plugin_is_a_plain_function_of_the_settings() -> None:
    async def late(hub: Any, settings: Any) -> None: ...

    def send(hub: Any, envelope: Any) -> None: ...

    check_pipeline(module(send=send, configure=lambda hub, settings: None))
    with pytest.raises(PluginError, match="configure runs before any event and must be plain 'def'"):
        check_pipeline(module(send=send, configure=late))
    with pytest.raises(PluginError, match=r"configure takes \(hub\), but is called with \(hub, settings\)"):
        check_pipeline(module(send=send, configure=lambda hub: None))


def test_the_rooms_that_are_checked() -> None:
    assert set(CHECKS) == {"egress", "ingress", "pipeline"}
