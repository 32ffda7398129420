"""Names of events: the same in this process and at every broker, or refused everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from evbus.api import event, event_listener
from evbus.errors import HandlerSignatureError

PATTERNS = ["order.*", "*", "#", "order.#", "*.placed", "order.>", ">"]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_no_name_of_an_event_nor_of_what_is_listened_to(hub: Any, name: str) -> None:
    @dataclass
    class Order:
        number: int

    def on(event: Any) -> None: ...

    with pytest.raises(HandlerSignatureError, match="the event .*Order: a name is taken as it is"):
        event(name)(Order)
    with pytest.raises(HandlerSignatureError, match="a listener: a name is taken as it is"):
        event_listener(name)
    with pytest.raises(HandlerSignatureError, match="a listener: a name is taken as it is"):
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


@pytest.mark.parametrize("name", ["a*", "order.#1", "a>b.c", "*/#", "bestellung.geändert", "o'brien?=%$"])
def test_every_other_name_is_one(name: str) -> None:
    @dataclass
    class Order:
        number: int

    event(name)(Order)
    event_listener(name)
