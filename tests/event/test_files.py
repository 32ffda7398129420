"""Listeners in the files of folders called listener."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evbus.kit import new_hub, running, states, write
from tests.event.kit import Book, OrderPlaced, go, listening, settled

HEAD = "from evbus.api import event_listener, EventListener\nfrom tests.event.kit import Book, OrderPlaced\n"
FUNCTION = HEAD + (
    "@event_listener(OrderPlaced, group='shop')\n"
    "async def on(hub, event: OrderPlaced):\n"
    "    hub.GOT.append(('function', event))\n"
)
CLASS = HEAD + (
    "@event_listener(OrderPlaced)\n"
    "class Billing(EventListener[OrderPlaced]):\n"
    "    def __init__(self, hub):\n"
    "        self.hub = hub\n"
    "    def on(self, event):\n"
    "        self.hub.GOT.append(('class', event))\n"
)
SEVERAL = HEAD + (
    "@event_listener(OrderPlaced, retry={'attempts': 1})\n"
    "async def placed(event, hub):\n"
    "    hub.GOT.append(('placed', event))\n"
    "@event_listener(Book)\n"
    "@event_listener(OrderPlaced, name='both')\n"
    "async def both(hub, event):\n"
    "    hub.GOT.append(('both', event))\n"
    "def helper(hub, event): ...\n"
)


def heard(tmp_path: Path, *sent: Any, **files: str) -> tuple[Any, list[Any]]:
    """Return the hub on which listeners heard what was sent, and what each got, sorted."""
    root = write(tmp_path / "plugins", **{f"listener__{name}": text for name, text in files.items()})

    async def main() -> Any:
        async with listening(plugin_dirs=[str(root)]) as hub:
            hub.GOT = []
            for each in sent:
                await hub.event.init.send(each)
            await settled(hub)
        return hub

    hub = go(main)
    return hub, sorted(hub.GOT, key=repr)


def test_a_file_with_a_function_is_all_that_it_needs(tmp_path: Path) -> None:
    hub, got = heard(tmp_path, OrderPlaced(), billing=FUNCTION)
    assert got == [("function", OrderPlaced())]
    (found,) = hub.event.init.subscriptions()
    assert (found["name"], found["group"], found["handled"]) == ("billing", "shop", 1)
    assert states(hub, "listener") == {"billing": "loaded"}


def test_a_class_is_made_with_the_hub(tmp_path: Path) -> None:
    hub, got = heard(tmp_path, OrderPlaced(), billing=CLASS)
    assert got == [("class", OrderPlaced())]
    assert hub.event.init.subscriptions()[0]["name"] == "Billing"


def test_a_file_may_hold_several(tmp_path: Path) -> None:
    hub, got = heard(tmp_path, OrderPlaced(), Book(title="t"), several=SEVERAL)
    assert got == [("both", Book(title="t")), ("both", OrderPlaced()), ("placed", OrderPlaced())]
    assert sorted(found["name"] for found in hub.event.init.subscriptions()) == ["both", "both", "placed"]


def test_several_files_each_get_an_event_once(tmp_path: Path) -> None:
    _, got = heard(tmp_path, OrderPlaced(), a=FUNCTION, b=CLASS, c=SEVERAL)
    assert [name for name, _ in got] == ["both", "class", "function", "placed"]


def test_what_a_file_imports_is_not_its_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lib", shared_listeners=CLASS)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    _, got = heard(tmp_path, OrderPlaced(), own=f"{FUNCTION}\nfrom shared_listeners import Billing\n")
    assert got == [("function", OrderPlaced())]


def test_they_listen_again_after_the_next_start_and_only_once(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", listener__billing=FUNCTION)
    hub = new_hub(plugin_dirs=[str(root)])
    hub.GOT = []

    async def main() -> None:
        async with running(hub, {"internal": {"*": {}}}):
            await hub.event.init.send(OrderPlaced())

    go(main)
    go(main)
    assert len(hub.GOT) == 2
    assert len(hub.event.init.subscriptions()) == 1
