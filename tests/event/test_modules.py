"""Listeners in ordinary modules, and in the files of folders called listener."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evbus import api, testing
from evbus.engine.handling.events import modules
from evbus.errors import HandlerExists, HandlerSignatureError
from tests.evbus.kit import WAIT, new_hub, running, states, write
from tests.event.kit import Book, OrderPlaced, go, listening, send, settled

INTERNAL = {"internal": {"*": {}}}
HEAD = "from evbus.api import EventListener, event_listener\nfrom tests.event.kit import OrderPlaced, Named\n"
LISTENER = "\n\n@event_listener({event})\ndef {name}(hub, event):\n    hub.GOT.append(('{name}', event))\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
        modules.MODULES.discard(name)


def module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def listener(name: str, event: str = "OrderPlaced") -> str:
    return LISTENER.format(name=name, event=event)


def heard(*listeners: Any, event: Any = None) -> list[str]:
    """Return the names of those who get an event on a bus with such listeners."""

    async def main() -> list[str]:
        async with asyncio.timeout(WAIT), api.bus(INTERNAL, listeners=listeners) as events:
            events.hub.GOT = []
            await events.send(event or OrderPlaced("A-1"))
            await events.settle()
            return sorted(name for name, got in events.hub.GOT)

    return asyncio.run(main())


def refused(*listeners: Any, kind: Any = HandlerSignatureError) -> str:
    with pytest.raises(kind) as caught:
        heard(*listeners)
    return str(caught.value)


def test_one_place_needs_no_list(folder: Path) -> None:
    app = module(folder, "app_alone", HEAD + listener("billing"))

    async def main(where: Any) -> list[Any]:
        async with asyncio.timeout(WAIT), api.bus(INTERNAL, listeners=where) as events:
            events.hub.GOT = []
            await events.send(OrderPlaced("A-1"))
            await events.settle()
            return [name for name, _ in events.hub.GOT]

    for where in (app, app.billing, iter([app])):
        assert asyncio.run(main(where)) == ["billing"]
    with pytest.raises(HandlerSignatureError, match="and not 'app_alone'"):
        asyncio.run(main("app_alone"))


def test_the_listeners_of_a_module_listen(folder: Path) -> None:
    text = (
        HEAD
        + listener("billing")
        + listener("others", "Named")
        + (
            "\n\n@event_listener(OrderPlaced)\nclass Stock(EventListener):\n"
            "    def __init__(self, hub):\n        self.hub = hub\n\n"
            "    def on(self, event):\n        self.hub.GOT.append(('stock', event))\n"
            "\n\ndef helper():\n    pass\n"
        )
    )
    assert heard(module(folder, "app_one", text)) == ["billing", "stock"]


def test_a_package_stands_for_all_modules_in_it(folder: Path) -> None:
    for name in ("deep.__init__", "deep.below.__init__"):
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + listener(name.split(".")[-2]))
    (folder / "deep" / "__main__.py").write_text("raise SystemExit('the program was run')")
    module(folder, "deep.below.lowest", HEAD + listener("lowest"))
    # What is named twice listens once.
    package = importlib.import_module("deep")
    assert heard(package, importlib.import_module("deep.below")) == ["below", "deep", "lowest"]


def test_a_module_of_a_package_that_cannot_be_imported_is_an_error(folder: Path) -> None:
    module(folder, "halves.__init__", HEAD + listener("whole"))
    (folder / "halves" / "half.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        heard(importlib.import_module("halves"))


def test_functions_and_classes_are_handed_over_by_themselves(folder: Path) -> None:
    found = module(folder, "app_two", HEAD + listener("first") + listener("second"))
    assert (heard(found.second), heard(found.first, found)) == (["second"], ["first", "second"])


def test_what_a_module_imports_from_another_is_that_ones(folder: Path) -> None:
    module(folder, "app_three", HEAD + listener("there"))
    here = module(folder, "app_four", HEAD + "from app_three import there\n" + listener("here"))
    assert heard(here) == ["here"]


def test_what_is_no_listener_is_refused(folder: Path) -> None:
    empty = module(folder, "app_empty", "def on(event):\n    pass\n")
    assert refused(empty) == "app_empty has no listener: a function or class with @event_listener(Event)"
    assert refused(empty.on) == (
        "the handler app_empty.on: it has no @event_listener(Event), which says what it listens to; or "
        "subscribe(Event, it)"
    )
    assert refused("app_empty").endswith("with @event_listener(Event), and not 'app_empty'")


def test_two_of_one_name_would_share_events_and_are_refused(folder: Path) -> None:
    one = module(folder, "app_five", HEAD + listener("billing"))
    two = module(folder, "app_six", HEAD + listener("other", "Named") + listener("billing"))
    assert "two listeners of one event are called 'billing'" in refused(one, two, kind=HandlerExists)

    async def main() -> None:
        hub = new_hub()
        async with running(hub, INTERNAL):
            hub.event.listen(one)
            with pytest.raises(HandlerExists):
                hub.event.listen(two)
            # None of a call listens when one of it is refused.
            assert [found["name"] for found in hub.event.init.subscriptions()] == ["billing"]

    asyncio.run(main())


async def test_what_listens_is_not_subscribed_twice_and_may_be_after_its_end(hub: Any, folder: Path) -> None:
    app = module(folder, "app_seven", HEAD + listener("billing"))

    async with running(hub, INTERNAL):
        (number,) = hub.event.listen(app)
        assert hub.event.listen(app.billing, app) == [number]
        await hub.event.unsubscribe(number)
        (other,) = hub.event.listen(app)
        assert other != number


async def test_a_bus_of_a_test_takes_listeners_too(folder: Path) -> None:
    app = module(folder, "app_eight", HEAD + listener("billing"))

    async with testing.bus(listeners=[app]) as events:
        events.hub.GOT = []
        await events.send(OrderPlaced("A-1"))
        await events.handled(OrderPlaced, listener="billing")
    with testing.sync_bus(listeners=[app.billing]) as sync:
        sync.hub.GOT = []
        sync.send(OrderPlaced("A-2"))
        sync.handled(OrderPlaced, listener="billing")


# What nobody has subscribed


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [said for said in caplog.messages if said.startswith("nobody has subscribed")]


def test_a_listener_that_nobody_subscribes_is_told_at_the_stop(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = module(folder, "app_nine", HEAD + listener("billing") + listener("stock"))

    async def main() -> None:
        async with api.bus(INTERNAL, listeners=[app.stock]):
            assert told(caplog) == []

    asyncio.run(main())
    (said,) = told(caplog)
    assert said == (
        f"nobody has subscribed the listener billing of OrderPlaced ({folder}/app_nine.py:5), and so it is "
        "not called; bus(..., listeners=[app_nine]) or hub.event.listen(app_nine) does it"
    )
    caplog.clear()
    asyncio.run(main())
    assert told(caplog) == []


async def test_it_is_told_while_the_bus_runs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    module(folder, "app_ten", HEAD + listener("billing"))

    async with asyncio.timeout(WAIT), api.bus(INTERNAL):
        while not told(caplog):  # noqa: ASYNC110 - the log cannot be awaited
            await asyncio.sleep(0.01)


async def test_what_is_subscribed_when_the_bus_runs_is_not_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = module(folder, "app_eleven", HEAD + listener("billing") + listener("stock"))

    async with api.bus(INTERNAL) as events:
        events.subscribe(OrderPlaced, app.billing)
        events.listen(app.stock)
    assert told(caplog) == []


async def test_what_a_library_declares_and_what_a_test_does_not_want_is_not_told(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = folder / "site-packages"
    monkeypatch.syspath_prepend(packages)
    module(packages, "lib_one", HEAD + listener("billing"))

    async with api.bus(INTERNAL):
        pass
    module(folder, "app_twelve", HEAD + listener("billing"))
    with testing.sync_bus():
        pass
    assert told(caplog) == []


def test_what_another_bus_has_loaded_or_refused_as_a_plugin_is_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = HEAD + listener("handle")
    root = write(tmp_path / "plugins", listener__a=text, listener__b=text)

    async def main() -> None:
        async with listening(plugin_dirs=[str(root)]), api.bus(INTERNAL):
            pass
        async with api.bus(INTERNAL):
            pass

    asyncio.run(main())
    assert any("would share its events" in message for message in caplog.messages)
    assert told(caplog) == []


def test_a_program_in_one_file_is_told_the_name_of_the_function(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\nfrom evbus.api import bus, event_listener\n\n\n"
        "@event_listener('Placed')\ndef billing(event):\n    pass\n\n\n"
        "async def main():\n    async with bus({'internal': {'default': {}}}):\n        pass\n\n\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    assert done.stderr == (
        f"nobody has subscribed the listener billing of Placed ({tmp_path}/app.py:5), and so it is not "
        "called; bus(..., listeners=[billing]) or hub.event.listen(billing) does it\n"
    )


# An event that is put


async def test_an_event_that_is_put_without_a_routing_key_has_its_name() -> None:
    got: list[Any] = []
    async with asyncio.timeout(WAIT), api.bus(INTERNAL) as events:
        events.subscribe(OrderPlaced, lambda event, envelope: got.append((event, dict(envelope.headers))))
        await events.put(body=OrderPlaced("A-1"))
        events.put_nowait(OrderPlaced("A-2"), headers={"a": "b"})
        await events.hub.evbus.broker.put(OrderPlaced("A-3"), "default")
        await events.put("elsewhere", OrderPlaced("A-4"))
        await events.settle()
        queue = await events.hub.ingress.internal.get("elsewhere")
        assert b"A-4" in await queue.get()
    assert [event.id for event, _ in got] == ["A-1", "A-2", "A-3"]
    assert all(headers["evbus-message"] == "OrderPlaced" for _, headers in got)
    assert got[1][1]["a"] == "b"


async def test_a_body_that_is_no_event_has_no_routing_key() -> None:
    class Other(OrderPlaced):  # no @event of its own
        pass

    async with asyncio.timeout(WAIT), api.bus(INTERNAL) as events:
        for body in ({"id": 1}, [1], "text", 1, None, Other("x")):
            await events.put(body=body)
        queue = await events.hub.ingress.internal.get()
        for _ in range(6):
            await queue.get()


# Listeners in the files of folders called listener.


IN_FILES = (
    "from evbus.api import event_listener, EventListener\nfrom tests.event.kit import Book, OrderPlaced\n"
)
FUNCTION = IN_FILES + (
    "@event_listener(OrderPlaced, group='shop')\n"
    "async def on(hub, event: OrderPlaced):\n"
    "    hub.GOT.append(('function', event))\n"
)
CLASS = IN_FILES + (
    "@event_listener(OrderPlaced)\n"
    "class Billing(EventListener[OrderPlaced]):\n"
    "    def __init__(self, hub):\n"
    "        self.hub = hub\n"
    "    def on(self, event):\n"
    "        self.hub.GOT.append(('class', event))\n"
)
SEVERAL = IN_FILES + (
    "@event_listener(OrderPlaced, retry={'attempts': 1})\n"
    "async def placed(event, hub):\n"
    "    hub.GOT.append(('placed', event))\n"
    "@event_listener(Book)\n"
    "@event_listener(OrderPlaced, name='both')\n"
    "async def both(hub, event):\n"
    "    hub.GOT.append(('both', event))\n"
    "def helper(hub, event): ...\n"
)


def heard_by_files(tmp_path: Path, *sent: Any, **files: str) -> tuple[Any, list[Any]]:
    """Return the hub on which listeners heard_by_files what was sent, and what each got, sorted."""
    root = write(tmp_path / "plugins", **{f"listener__{name}": text for name, text in files.items()})

    async def main() -> Any:
        async with listening(plugin_dirs=[str(root)]) as hub:
            hub.GOT = []
            await send(hub, *sent)
            await settled(hub)
        return hub

    hub = go(main)
    return hub, sorted(hub.GOT, key=repr)


def test_a_file_with_a_function_is_all_that_it_needs(tmp_path: Path) -> None:
    hub, got = heard_by_files(tmp_path, OrderPlaced(), billing=FUNCTION)
    assert got == [("function", OrderPlaced())]
    (found,) = hub.event.init.subscriptions()
    assert (found["name"], found["group"], found["handled"]) == ("billing", "shop", 1)
    assert states(hub, "listener") == {"billing": "loaded"}


def test_a_class_is_made_with_the_hub(tmp_path: Path) -> None:
    hub, got = heard_by_files(tmp_path, OrderPlaced(), billing=CLASS)
    assert got == [("class", OrderPlaced())]
    assert hub.event.init.subscriptions()[0]["name"] == "Billing"


def test_a_file_may_hold_several(tmp_path: Path) -> None:
    hub, got = heard_by_files(tmp_path, OrderPlaced(), Book(title="t"), several=SEVERAL)
    assert got == [("both", Book(title="t")), ("both", OrderPlaced()), ("placed", OrderPlaced())]
    assert sorted(found["name"] for found in hub.event.init.subscriptions()) == ["both", "both", "placed"]


def test_several_files_each_get_an_event_once(tmp_path: Path) -> None:
    _, got = heard_by_files(tmp_path, OrderPlaced(), a=FUNCTION, b=CLASS, c=SEVERAL)
    assert [name for name, _ in got] == ["both", "class", "function", "placed"]


def test_what_a_file_imports_is_not_its_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lib", shared_listeners=CLASS)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    _, got = heard_by_files(
        tmp_path, OrderPlaced(), own=f"{FUNCTION}\nfrom shared_listeners import Billing\n"
    )
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
    assert (len(hub.GOT), len(hub.event.init.subscriptions())) == (2, 1)
