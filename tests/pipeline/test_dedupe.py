from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from evbus.engine.core.settings import Settings
from evbus.engine.stages.receiver import RECEIVER
from evbus.types import Envelope


@pytest.fixture
def room(room: Any) -> Any:
    """Return a hub with this room alone, and the plugin's options as they are by default."""
    room.pipeline.dedupe.configure(Settings())
    return room


def received(profile: str = "p", **headers: str) -> Envelope:
    return Envelope(profile, "k", b"1", {name.replace("_", "-"): value for name, value in headers.items()})


def handled(hub: Any, *envelopes: Envelope) -> list[Any]:
    """Return what handling them one after the other returns: a number for each that was handled."""

    async def main() -> list[Any]:
        count = iter(range(100))

        async def handler(envelope: Envelope) -> int:
            return next(count)

        return [await hub.pipeline.dedupe.handle(envelope, handler) for envelope in envelopes]

    return asyncio.run(main())


def test_a_second_delivery_is_not_handled_again(room: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "evbus.pipeline.dedupe")
    assert handled(room, received(ce_id="1\n2"), received(ce_id="1\n2"), received(ce_id="2")) == [0, None, 1]
    assert room.pipeline.DEDUPE.dropped == 1
    assert caplog.messages == ["the event 1\\n2 was handled before"]


def test_an_event_is_known_by_its_ce_id_else_by_its_message_id(room: Any) -> None:
    assert handled(
        room,
        received(ce_id="1", message_id="a"),
        received(ce_id="1", message_id="b"),
        received(message_id="b"),
        received(message_id="b"),
    ) == [0, None, 1, None]


def test_an_event_without_an_id_is_always_handled(room: Any) -> None:
    assert handled(room, received(), received(), received(ce_id="")) == [0, 1, 2]


def test_an_event_whose_handler_failed_is_handled_again(room: Any) -> None:
    async def main() -> None:
        async def failing(envelope: Envelope) -> None:
            raise KeyError

        with pytest.raises(KeyError):
            await room.pipeline.dedupe.handle(received(ce_id="1"), failing)

    asyncio.run(main())
    assert handled(room, received(ce_id="1")) == [0]


async def test_each_receiver_handles_an_event_once(room: Any) -> None:
    found = []
    for name in ("billing", "shipping", "billing", "shipping"):

        async def handler(envelope: Envelope, name: str = name) -> None:
            found.append(name)

        RECEIVER.set(name)
        await room.pipeline.dedupe.handle(received(ce_id="1"), handler)
    assert found == ["billing", "shipping"]


def test_a_message_in_process_reaches_each_of_its_handlers(room: Any) -> None:
    assert handled(room, received("", ce_id="1"), received("", ce_id="1")) == [0, 1]


def test_the_options_bound_what_is_remembered(room: Any) -> None:
    room.pipeline.dedupe.configure(Settings(dedupe_limit=1, dedupe_window=5.0))
    assert repr(room.pipeline.DEDUPE.window) == "<Memory 0 of 1 keys, 5 s>"
    first, second = received(ce_id="1"), received(ce_id="2")
    assert handled(room, first, second, second, first) == [0, 1, None, 2]


def test_dedupe_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.dedupe.__optional__ is True
