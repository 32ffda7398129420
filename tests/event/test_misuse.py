"""Whoever does something wrong is told what would be right: every sentence as a whole."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.handling.events.declare import EventListener, event, event_listener
from evbus.engine.handling.events.registry import EventTypes
from evbus.errors import (
    EvbusError,
    HandlerExists,
    HandlerSignatureError,
    InvalidHeader,
    ProfileError,
    SerializeError,
)
from tests.evbus.kit import plugin, write
from tests.event.kit import Book, Got, OrderPlaced, failure, listening, new_hub, settled

RETRY = "; write retry={'attempts': 3, 'min': 0.1, 'max': 10}"


class Socket:
    pass


async def on(event: Any) -> None: ...


# Events


def test_an_event_without_parentheses() -> None:
    said = failure(HandlerSignatureError, event, OrderPlaced)
    assert said == "write @event() above OrderPlaced, with parentheses"


def test_a_class_that_is_no_dataclass(hub: Any) -> None:
    @event()
    class Bare:
        id: int

    # @dataclass may still come above @event(), so that this shows with the first use.
    said = (
        f"{Bare.__qualname__} cannot be an event: it is no dataclass, msgspec Struct, attrs class or "
        "pydantic model; put @dataclass above it"
    )
    assert failure(HandlerSignatureError, hub.event.init.subscribe, Bare, on) == said
    assert failure(HandlerSignatureError, hub.event.init.send, Bare()) == said


def test_a_class_below_a_dataclass_whose_own_fields_are_none() -> None:
    @event("below")
    class Below(OrderPlaced):
        more: int = 1

    assert failure(HandlerSignatureError, new_hub().event.init.subscribe, Below, on) == (
        f"the event {Below.__qualname__}: more is no field yet, as the class is no dataclass itself; put "
        "@dataclass above it, too"
    )


def test_a_field_that_cannot_be_encoded() -> None:
    inner = dataclasses.make_dataclass("Inner", [("socket", list[Socket])])
    outer = dataclasses.make_dataclass("Outer", [("id", int), ("inner", inner | None)])
    assert failure(HandlerSignatureError, event(), outer) == (
        "the event Outer: the field inner.socket is a Socket, which cannot be encoded; make that a dataclass "
        "or a plain value"
    )


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.5])
def test_a_version_that_is_none(version: Any) -> None:
    said = failure(HandlerSignatureError, event(version=version), OrderPlaced)
    assert said == "the event OrderPlaced: version is a number from 1 on"


def test_a_name_that_is_none() -> None:
    said = failure(HandlerSignatureError, event(5), OrderPlaced)  # type: ignore[arg-type]
    assert said == "the event OrderPlaced: name is a text, and not 5"


def test_two_events_of_one_name() -> None:
    other = event("OrderPlaced")(dataclasses.make_dataclass("Placed", [("id", int)]))
    other.__module__ = "elsewhere"
    registry = EventTypes()
    registry.of(OrderPlaced)
    assert failure(HandlerExists, registry.of, other) == (
        "two events are called 'OrderPlaced': tests.event.kit.OrderPlaced and elsewhere.Placed; give one of "
        "them another name: @event(name=...)"
    )


def test_two_events_of_one_name_in_one_file() -> None:
    @event()
    @dataclasses.dataclass
    class First:
        id: int

    @event("First")
    @dataclasses.dataclass
    class Second:
        id: int

    registry = EventTypes()
    registry.of(First)
    here = f"{__name__}.test_two_events_of_one_name_in_one_file.<locals>"
    assert failure(HandlerExists, registry.of, Second) == (
        f"two events are called 'First': {here}.First and {here}.Second; give one of them another name: "
        "@event(name=...)"
    )


# Listeners


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "concurrency of a listener is a number from 1 on, and not 0"),
        ({"concurrency": True}, "concurrency of a listener is a number from 1 on, and not True"),
        ({"concurrency": "2"}, "concurrency of a listener is a number from 1 on, and not '2'"),
        ({"prefetch": -1}, "prefetch of a listener is a number from 0 to 65535, and not -1"),
        ({"prefetch": 70_000}, "prefetch of a listener is a number from 0 to 65535, and not 70000"),
        ({"timeout": 0}, "timeout of a listener is a number of seconds above 0, or None, and not 0"),
        ({"timeout": "5"}, "timeout of a listener is a number of seconds above 0, or None, and not '5'"),
        ({"timeout": True}, "timeout of a listener is a number of seconds above 0, or None, and not True"),
        ({"name": 5}, "name of a listener is a text, and not 5"),
        ({"group": None}, "group of a listener is a text, and not None"),
        ({"profile": 5}, "profile of a listener is a text, and not 5"),
        ({"on_error": 5}, "on_error of a listener is a function on_error(event, exception)"),
        ({"key": 5}, "key of a listener is an attribute of the event, or a function of it, and not 5"),
        ({"key": "ids"}, "key: OrderPlaced has no field 'ids'; did you mean 'id'?"),
        (
            {"retry": {"attempts": -1}},
            (
                "retry of a listener: attempts is 0 (for ever) or more, and min and max are seconds with "
                "0 < min <= max" + RETRY
            ),
        ),
        ({"retry": {"attempt": 1}}, "retry of a listener: Object contains unknown field `attempt`" + RETRY),
        ({"retry": 5}, "retry of a listener: 'int' object is not iterable" + RETRY),
    ],
    ids=str,
)
def test_options_of_a_listener(hub: Any, options: dict[str, Any], said: str) -> None:
    assert failure(HandlerSignatureError, event_listener, OrderPlaced, **options) == said
    assert failure(HandlerSignatureError, hub.event.init.subscribe, OrderPlaced, on, **options) == said
    assert hub.event.init.subscriptions() == []


def test_an_option_that_there_is_none_of() -> None:
    said = failure(HandlerSignatureError, event_listener, OrderPlaced, concurency=2)
    assert said == "a listener has no option 'concurency'; did you mean 'concurrency'?"
    said = failure(HandlerSignatureError, new_hub().event.init.subscribe, OrderPlaced, on, concurency=2)
    assert said == "a listener has no option 'concurency'; did you mean 'concurrency'?"
    said = failure(HandlerSignatureError, event_listener, OrderPlaced, gruop="b")
    assert said == "a listener has no option 'gruop'; did you mean 'group'?"


def test_what_cannot_be_called_is_no_listener() -> None:
    async def on(event: OrderPlaced) -> None: ...

    subscribe = new_hub().event.init.subscribe
    wrong = "a listener is a function, or a class with on(self, event), and not "
    assert failure(HandlerSignatureError, subscribe, OrderPlaced, 5) == f"{wrong}a int"
    assert failure(HandlerSignatureError, subscribe, OrderPlaced, on(OrderPlaced("A", 1))) == (
        f"{wrong}a coroutine: write on without calling it"
    )


@pytest.mark.parametrize(
    ("listened", "subclasses", "said"),
    [
        (Socket, False, "Socket is no event; put @event() above the class"),
        (5, False, "a listener listens to a class of events, or to the name of one, not to a int"),
        (
            Socket,
            True,
            (
                "Socket is no event, and no event derives from it yet; put @event() above the classes, and "
                "import them first"
            ),
        ),
        (object, True, "subclasses=True wants a class that events derive from, not <class 'object'>"),
    ],
)
def test_a_listener_to_what_is_no_event(hub: Any, listened: Any, subclasses: bool, said: str) -> None:
    assert (
        failure(HandlerSignatureError, hub.event.init.subscribe, listened, on, subclasses=subclasses) == said
    )
    assert hub.event.init.subscriptions() == []


def test_a_subscription_to_nothing_or_to_several_things() -> None:
    subscribe = new_hub().event.init.subscribe
    right = "give subscribe() one class of events, or one name"
    assert failure(HandlerSignatureError, subscribe, callback=on) == (
        f"a listener was told nothing to listen to; {right}"
    )
    assert failure(HandlerSignatureError, subscribe, OrderPlaced, on, event_type=OrderPlaced) == (
        f"a listener was told several things to listen to; {right}"
    )


def test_a_callback_that_cannot_be_called_with_an_event() -> None:
    async def wrong(order: Any, total: Any) -> None: ...

    name = f"{__name__}.test_a_callback_that_cannot_be_called_with_an_event.<locals>.wrong"
    assert failure(HandlerSignatureError, new_hub().event.init.subscribe, OrderPlaced, wrong) == (
        f"the handler {name}: it takes (order, total), and is called with the event "
        "alone, or with (hub, event)"
    )


def test_a_listener_without_its_event() -> None:
    class Billing(EventListener[OrderPlaced]):
        pass

    for listener in (on, Billing):
        assert failure(HandlerSignatureError, event_listener, listener) == (
            f"write @event_listener(Event) above {listener.__qualname__}, with its event in parentheses"
        )


async def test_a_listener_to_a_profile_that_cannot_be_consumed_from(tmp_path: Path) -> None:
    profiles = {"file": {"default": {"path": str(tmp_path / "out")}}}
    async with listening(profiles) as hub:
        with pytest.raises(ProfileError) as caught:
            hub.event.init.subscribe(OrderPlaced, on)
        assert hub.event.init.subscriptions() == []
        said = str(caught.value)
    assert said.startswith("contexts: listener test_misuse: there is no profile that 'default' matches and ")
    assert "; file.default only takes events; within this process it is internal: {default: {}}" in said


def test_a_name_that_looks_like_a_pattern_and_is_none_is_told(
    hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("order.*", "order.placed", "#", OrderPlaced):
        hub.event.init.subscribe(name, on)
    assert not caplog.records
    for name in ("order*", "order.##"):
        hub.event.init.subscribe(name, on)
        assert f"a listener listens to the name {name!r} itself: in a pattern" in caplog.messages[-1]


# Sending

NO_EVENT = "no event; what has no class with @event() is put: put(routing_key, body)"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (5, f"int is {NO_EVENT}"),
        ({"id": 1}, f"dict is {NO_EVENT}"),
        (None, f"NoneType is {NO_EVENT}"),
        (OrderPlaced, "a class was sent; send an instance of it"),
    ],
    ids=str,
)
def test_what_is_no_event_is_not_sent(hub: Any, sent: Any, said: str) -> None:
    assert failure(HandlerSignatureError, hub.event.init.send, sent) == said
    assert hub.evbus.BUS.empty()


@pytest.mark.parametrize(
    ("headers", "named"),
    [({"tenant": 5}, "tenant"), ({5: "x"}, "5"), ({"a": None}, "a")],
    ids=str,
)
def test_a_header_that_is_no_string(hub: Any, headers: Any, named: str) -> None:
    said = failure(InvalidHeader, hub.event.init.send, OrderPlaced(), headers=headers)
    assert named in said
    assert hub.evbus.BUS.empty()


def test_headers_that_are_no_mapping() -> None:
    said = failure(InvalidHeader, new_hub().event.init.send, OrderPlaced(), headers=[("a", "b")])
    assert said == "headers are a mapping of strings to strings, not list"


def test_an_event_of_which_a_value_cannot_be_encoded() -> None:
    said = failure(SerializeError, new_hub().event.init.send, OrderPlaced(id="\ud800"))
    assert said.startswith("the event body cannot be serialized as json: ")
    assert said.endswith("at $.id")


async def test_a_listener_that_stops_the_bus_and_would_wait_for_itself() -> None:
    said = list[str]()

    async def stops(hub: Any, event: Any) -> None:
        try:
            await hub.evbus.init.stop()
        except EvbusError as exc:
            said.append(str(exc))

    async with listening() as hub:
        found = hub.event.init.subscribe(OrderPlaced, stops)
        await hub.event.init.send(OrderPlaced())
        await settled(hub)
    assert said == [
        (
            f"listener {found} stops the bus, which waits for its listeners; let others do it, or "
            "asyncio.create_task(hub.evbus.init.stop())"
        )
    ]


# Files of listeners


def broken(tmp_path: Path, text: str) -> Any:
    """Return what became of the file ``listener/shop.py``."""
    root = write(tmp_path / "plugins", listener__shop=text)
    return plugin(new_hub(plugin_dirs=[str(root)]), "shop", "listener")


HEAD = (
    "from evbus.api import event_listener, EventListener\nfrom tests.event.kit import Measured, OrderPlaced\n"
)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("x = 1", 0, "it has no listener: a function or class with @event_listener(Event)"),
        (
            "async def on(hub, event): ...",
            0,
            "it has no listener: a function or class with @event_listener(Event)",
        ),
        (
            "\n\n@event_listener(OrderPlaced)\nasync def on(hub): ...",
            5,
            (
                "the handler {module}.on: it takes (hub), and is called with the event alone, or with "
                "(hub, event)"
            ),
        ),
        (
            "@event_listener(OrderPlaced)\nclass Shop(EventListener):\n    def on(self): ...",
            3,
            (
                "the handler {module}.Shop: it takes (), and is called with the event alone, or with "
                "(hub, event)"
            ),
        ),
        (
            "@event_listener(OrderPlaced)\nclass Shop(EventListener):\n    def on(**event): ...",
            3,
            "the handler {module}.Shop: its on has no parameter for its object; write on(self, event)",
        ),
        (
            "@event_listener(OrderPlaced)\nclass Shop(EventListener):\n    def handle(self, event): ...",
            3,
            "the handler {module}.Shop: it has no on(self, event)",
        ),
        (
            "@event_listener(OrderPlaced)\nasync def on(hub, event: Measured): ...",
            3,
            "the handler {module}.on: it listens to OrderPlaced, and takes a Measured",
        ),
        (
            "@event_listener(OrderPlaced)\nclass Shop(EventListener[Measured]):\n    def on(self, one): ...",
            3,
            "the handler {module}.Shop: it listens to OrderPlaced, and takes a Measured",
        ),
        (
            (
                "@event_listener(OrderPlaced)\nclass Shop(EventListener):\n"
                "    def __init__(self, db): ...\n    def on(self, event): ..."
            ),
            3,
            (
                "the handler {module}.Shop: the hub makes its object, and has nothing for db; take the hub "
                "alone: __init__(self, hub), or what is provided for a class: __init__(self, repo: Repo)"
            ),
        ),
        (
            "@event_listener(str)\nasync def on(hub, event): ...",
            3,
            "str is no event; put @event() above the class",
        ),
        (
            "@event_listener(OrderPlaced, concurrency=0)\nasync def on(hub, event): ...",
            3,
            "HandlerSignatureError: concurrency of a listener is a number from 1 on, and not 0",
        ),
    ],
    ids=[
        *("empty", "undecorated", "signature", "method", "no self", "no method", "other", "other base"),
        *("construction", "no event", "option"),
    ],
)
def test_a_file_is_told_with_its_line(text: str, line: int, reason: str, tmp_path: Path) -> None:
    found = broken(tmp_path, HEAD + text)
    module = found.file.removesuffix(".py").strip("/").replace("/", ".")
    assert (found.state, found.line) == ("broken", line)
    assert found.reason == reason.format(module=module)
    place = f"{found.file}:{line}" if line else found.file
    assert str(found.error()) == f"listener.shop ({place}): {found.reason}"


def test_an_event_that_is_defined_in_a_plugin_file_and_imported_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(
        tmp_path / "plugins",
        listener__defines="""
            from dataclasses import dataclass
            from evbus.api import EventListener, event, event_listener

            @event()
            @dataclass
            class Twice:
                id: int

            @event_listener(Twice)
            async def on(hub, event): ...
        """,
        listener__imports="""
            from defines import Twice
            from evbus.api import event_listener

            @event_listener(Twice)
            async def on(hub, event): ...
        """,
    )
    monkeypatch.syspath_prepend(str(root / "listener"))
    try:
        found = plugin(new_hub(plugin_dirs=[str(root)]), "imports", "listener")
    finally:
        sys.modules.pop("defines", None)
    path = str(root / "listener" / "defines").strip("/").replace("/", ".")
    assert found.reason == (
        f"the event 'Twice' is there twice, as {path}.Twice and defines.Twice, which are one file loaded "
        "under two names: POP loads plugin files by their paths; put events into a plain module and import it"
    )


async def test_two_files_whose_listeners_would_share_their_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = HEAD + "@event_listener(OrderPlaced)\nasync def handle(hub, event): ..."
    root = write(tmp_path / "plugins", listener__a=text, listener__b=text)

    async with listening(plugin_dirs=[str(root)]) as hub:
        assert [found["name"] for found in hub.event.init.subscriptions()] == ["handle"]
    first = str(root / "listener" / "a").strip("/").replace("/", ".")
    (said,) = [message for message in caplog.messages if "plugin not loaded" in message]
    assert said.endswith(
        f"two listeners of one event are called 'handle', this and {first}.handle, and would share its "
        "events; give one another name=, or both the same group="
    )


def test_a_model_that_is_wrong_is_refused_where_it_is_made_and_not_sent() -> None:
    with pytest.raises(ValueError, match="valid string"):
        Book(title=5)  # type: ignore[arg-type]


async def test_a_listener_of_a_broken_file_does_not_listen_and_others_do(tmp_path: Path) -> None:
    root = write(
        tmp_path / "plugins",
        listener__good=HEAD + "@event_listener(OrderPlaced)\nasync def on(hub, event): hub.GOT.append(event)",
        listener__bad=HEAD + "@event_listener(OrderPlaced)\nasync def on(): ...",
    )

    async with listening(plugin_dirs=[str(root)]) as hub:
        hub.GOT = Got()
        await hub.event.init.send(OrderPlaced())
    assert [OrderPlaced()] == hub.GOT
