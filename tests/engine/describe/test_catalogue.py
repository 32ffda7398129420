"""What an application consists of, put together."""

from __future__ import annotations

import fnmatch
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evbus.api import EventListener, event, event_listener
from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.profiles import read_profiles
from evbus.engine.describe.catalogue import (
    Catalogue,
    Configuration,
    KnownListener,
    catalogue,
    events_in,
    known,
)
from evbus.engine.handling.events.listener import declared
from evbus.engine.handling.events.modules import imported
from evbus.engine.handling.events.registry import EventTypes
from evbus.engine.wire.memory.queues import InternalProfile
from evbus.errors import ConfigError, HandlerExists

INTERNAL = Plugin("internal", ("internal",), InternalProfile)
FILE = Plugin("file", ("file",))
LINES = Plugin("lines", ("lines",))


@event(durable=True)
@dataclass(slots=True)
class Placed:
    id: str


@event()
@dataclass
class Base:
    id: str


@event()
@dataclass
class Below(Base):
    more: int = 0


@event(broadcast=True)
@dataclass
class Prices:
    pass


def matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def listeners(*found: Any, registry: EventTypes | None = None) -> list[KnownListener]:
    """Return what a file that declares these says of them."""
    module = types.ModuleType("myapp.listener.billing")
    for number, one in enumerate(found):
        one.__module__ = module.__name__
        setattr(module, f"one{number}", one)
    return known(declared(module), "listener.billing", registry or EventTypes())


def put_together(
    contexts: dict[str, Any], *found: Callable[..., Any], sent_with: str = "default", also: Any = ()
) -> Catalogue:
    registry = EventTypes()
    for each in also:
        registry.of(each)
    profiles = read_profiles(
        contexts, [INTERNAL, FILE], source="p.yml", find=matches, broken={}, others={"lines"}
    )
    bus = Configuration(contexts, profiles, [INTERNAL, LINES], matches, "p.yml")
    return catalogue(bus, listeners(*found, registry=registry), list(registry), sent_with)


def ways(found: Catalogue) -> list[tuple[str, str]]:
    return [(one.event.name, one.endpoint.full_name) for one in found.sent]


def gets(found: Catalogue) -> list[tuple[str, str, str]]:
    return [(one.event.name, one.endpoint.full_name, one.listener.name) for one in found.received]


def test_the_name_of_a_listener_is_that_of_its_file_its_class_or_its_own() -> None:
    @event_listener(Placed)
    async def on(event: Placed) -> None:
        """Write
        the invoice."""

    @event_listener(Placed, name="own")
    def other(event: Placed) -> None: ...

    @event_listener(Placed)
    class Audit(EventListener[Placed]):
        """Note it."""

        def __init__(self) -> None:
            raise AssertionError("no object is made")

    found = listeners(on, other, Audit)
    assert [(one.name, one.group, one.place) for one in found] == [
        ("billing", "billing", "listener.billing"),
        ("own", "own", "listener.billing"),
        ("Audit", "Audit", "listener.billing"),
    ]
    assert [one.text for one in found] == ["Write\nthe invoice.", "", "Note it."]


def test_what_a_file_only_imports_is_not_its_listener() -> None:
    @event_listener(Placed)
    def on(event: Placed) -> None: ...

    module = types.ModuleType("myapp.listener.other")
    module.on = on  # type: ignore[attr-defined]
    assert known(declared(module), "listener.other", EventTypes()) == []


def test_a_listener_with_subclasses_listens_to_each() -> None:
    @event_listener(Base, subclasses=True)
    def on(event: Base) -> None: ...

    (found,) = listeners(on)
    assert [each.name for each in found.events] == ["Base", "Below"]


def test_a_listener_to_a_pattern_gets_the_known_events_that_match_it() -> None:
    @event("shop.opened", broadcast=True)
    @dataclass
    class Opened:
        id: str

    @event_listener("shop.#", name="all")
    def all_of_it(event: Any) -> None: ...

    @event_listener(Opened, name="one")
    def one(event: Opened) -> None: ...

    @event_listener("stock.*", name="none")
    def none(event: Any) -> None: ...

    found = put_together({"internal": {"default": {}}}, all_of_it, one, none, also=[Placed])
    assert [each.name for each in found.events] == ["Placed", "shop.opened", "stock.*"]
    assert ways(found) == [("Placed", "internal.default"), ("shop.opened", "internal.default")]
    assert gets(found) == [
        ("shop.opened", "internal.default", "all"),
        ("stock.*", "internal.default", "none"),
        ("shop.opened", "internal.default", "one"),
    ]
    assert [one.channel.address for one in found.received] == ["shop.#", "stock.*", "shop.opened"]
    assert [each.per_process(each.events[0]) for each in found.listeners] == [False, False, True]
    assert found.problems == []


def test_an_event_goes_to_every_profile_that_matches_and_comes_from_those_that_can_be_consumed_from() -> None:
    @event_listener(Placed, group="accounts")
    def on(event: Placed) -> None: ...

    contexts = {"internal": {"*": {}}, "file": {"default": {"path": "x"}, "other": {"path": "y"}}}
    found = put_together(contexts, on)
    assert ways(found) == [("Placed", "internal.*"), ("Placed", "file.default")]
    assert gets(found) == [("Placed", "internal.*", "billing")]
    assert found.problems == []


def test_an_event_is_sent_with_the_profile_that_its_listeners_listen_to() -> None:
    @event_listener(Placed, profile="orders")
    def on(event: Placed) -> None: ...

    contexts = {"internal": {"orders": {}, "default": {}, "mine": {}}}
    found = put_together(contexts, on, also=[Base], sent_with="mine")
    assert ways(found) == [("Base", "internal.mine"), ("Placed", "internal.orders")]


def test_broadcast_gives_each_process_a_copy() -> None:
    @event_listener(Prices)
    @event_listener(Placed)
    def on(event: Any) -> None: ...

    found = put_together({"internal": {"*": {}}}, on)
    copies = {event.name: one.per_process(event) for one in found.listeners for event in one.events}
    assert copies == {"Prices": True, "Placed": False}


def test_an_event_known_by_its_name_takes_the_class_of_that_name() -> None:
    @event_listener("Placed")
    @event_listener("elsewhere")
    def on(event: Any) -> None: ...

    found = put_together({"internal": {"*": {}}}, on, also=[Placed])
    assert [(each.name, each.cls) for each in found.events] == [("Placed", Placed), ("elsewhere", None)]


def test_what_leads_nowhere_is_a_problem() -> None:
    @event_listener(Placed, profile="ordrs")
    def on(event: Placed) -> None: ...

    found = put_together({"internal": {"orders": {}}}, on)
    assert (found.sent, found.received) == ([], [])
    first, second = found.problems
    assert first == "the event Placed goes nowhere: no profile matches 'ordrs'; did you mean 'orders'?"
    assert second.startswith("the listener billing gets no Placed: p.yml: there is no profile that 'ordrs'")


def test_profiles_that_are_only_consumed_from_are_among_the_profiles() -> None:
    found = put_together({"lines": {"in": {"a": 1}}, "internal": [{"a": {}}, {"b": {}}]})
    assert [(one.plugin.name, one.provider, one.name) for one in found.profiles] == [
        ("lines", "lines", "in"),
        ("internal", "internal", "a"),
        ("internal", "internal", "b"),
    ]


def test_dead_letters_lead_to_the_profiles_that_match() -> None:
    contexts = {"internal": {"a": {"delivery": {"dead_letter": "lost"}}}, "file": {"lo*": {"path": "x"}}}
    found = put_together(contexts)
    assert [(one.name, other.name) for one, other in found.dead] == [("a", "lo*")]


def test_two_events_of_one_name_are_refused() -> None:
    @event("Placed")
    @dataclass
    class Other:
        pass

    @event_listener(Other)
    def on(event: Other) -> None: ...

    with pytest.raises(HandlerExists, match="'Placed'"):
        put_together({"internal": {"*": {}}}, on, also=[Placed])


# Modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for modules, of which none is left behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_events_of_a_module_are_found(folder: Path) -> None:
    (folder / "catalogue_of_events.py").write_text(
        "from dataclasses import dataclass\nfrom evbus.api import event\n"
        "@event()\n@dataclass(slots=True)\nclass A: pass\n@dataclass\nclass NoEvent: pass\n"
    )
    assert [each.__name__ for each in events_in(imported("catalogue_of_events", str(folder)))] == ["A"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no module 'catalogue_of.events'; it is looked for in "),
        ("x = 1\n", "the module 'catalogue_of.events' has no events; put @event"),
        ("import not_there_at_all\n", "cannot be imported: No module named 'not_there_at_all'"),
        ("1 / 0\n", "the module 'catalogue_of.events' cannot be imported: ZeroDivisionError: division by"),
        ("raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
    ],
)
def test_a_module_that_is_of_no_use_is_one_sentence(folder: Path, text: str | None, sentence: str) -> None:
    (folder / "catalogue_of").mkdir()
    (folder / "catalogue_of" / "__init__.py").touch()
    if text is not None:
        (folder / "catalogue_of" / "events.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        events_in(imported("catalogue_of.events", str(folder)))
    assert sentence in str(caught.value)
