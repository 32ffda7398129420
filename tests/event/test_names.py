"""Names of events: the same in this process and at every broker, or refused everywhere."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evbus.api import event, event_listener
from evbus.errors import HandlerSignatureError, ProfileError
from tests.evbus.kit import new_hub, running, write

PATTERNS = ["order.*", "*", "#", "order.#", "*.placed"]


def test_a_pattern_is_no_name_of_an_event() -> None:
    @dataclass
    class Order:
        number: int

    for name in PATTERNS:
        with pytest.raises(HandlerSignatureError, match=r"the event .*Order: the name .* is taken as it is"):
            event(name)(Order)
        event_listener(name)


@pytest.mark.parametrize("name", ["order.>", ">"])
def test_what_only_activemq_takes_for_a_pattern_is_refused_everywhere(hub: Any, name: str) -> None:
    @dataclass
    class Order:
        number: int

    def on(event: Any) -> None: ...

    with pytest.raises(HandlerSignatureError, match=r"the event .*Order: .*'>' is no word of a name"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match=r"a listener: .*'>' is no word of a name"):
        event_listener(name)
    with pytest.raises(HandlerSignatureError, match=r"a listener: .*'>' is no word of a name"):
        hub.event.init.subscribe(name, on)


@pytest.mark.parametrize("name", ["x" * 256, "ä" * 128])
def test_a_name_has_255_bytes_at_most(name: str) -> None:
    @dataclass
    class Order:
        number: int

    with pytest.raises(HandlerSignatureError, match="more than 255 bytes of UTF-8"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match="more than 255 bytes of UTF-8"):
        event_listener(name)
    event(name[1:])(Order)
    event_listener(name[1:])


@pytest.mark.parametrize(
    ("name", "held"),
    [("a\nb", "U+000A"), ("a\r", "U+000D"), ("\0", "U+0000"), ("a\x85b", "U+0085"), ("a\ud800", "U+D800")],
)
def test_a_name_holds_nothing_that_a_broker_leaves_out(hub: Any, name: str, held: str) -> None:
    @dataclass
    class Order:
        number: int

    def on(event: Any) -> None: ...

    with pytest.raises(HandlerSignatureError, match=f"the event .*Order: .* holds {re.escape(held)},"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match=f"a listener: .* holds {re.escape(held)},"):
        hub.event.init.subscribe(name, on)


@pytest.mark.parametrize("name", ["a*", "order.#1", "a>b.c", "*/#", "bestellung.geändert", "o'brien?=%$"])
def test_every_other_name_is_one(name: str) -> None:
    @dataclass
    class Order:
        number: int

    event(name)(Order)
    event_listener(name)


def test_a_pattern_is_refused_where_the_plugin_finds_events_by_their_names_alone(tmp_path: Path) -> None:
    text = """
        def __init__(hub):
            hub.egress.own.ACCT = ["own"]

        async def consume(hub, ctx, subscription):
            if subscription.name == "never":
                yield
    """
    hub = new_hub(plugin_dirs=[write(tmp_path, egress__own=text)], dead_store=tmp_path / "dead.jsonl")
    hub.event.init.subscribe("order.*", print)

    async def main() -> None:
        async with running(hub, {"own": {"default": {}}}):
            raise AssertionError("it has started")

    with pytest.raises(ProfileError, match=r"own.default finds events by their names alone, and 'order"):
        asyncio.run(main())
