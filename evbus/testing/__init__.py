"""For tests of applications that stand on evbus: a real bus, on memory, that tells what happened on it.

With pytest there is the fixture ``event_bus``, which needs no import::

    async def test_an_order_is_billed(event_bus):
        await place_order(event_bus.hub, "A-1")
        placed = await event_bus.expect(OrderPlaced, where=lambda event: event.order_id == "A-1")
        await event_bus.handled(OrderPlaced, listener="billing")

Without it, :func:`bus` is the same as an asynchronous context manager, and :func:`sync_bus` one for plain
functions.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from evbus.engine.core.expand import expanded
from evbus.engine.core.plugins import installed
from evbus.engine.core.profiles import load_yaml
from evbus.engine.handling.events import modules
from evbus.errors import EvbusError
from evbus.testing._bus import Bus, change
from evbus.testing._failures import Failure
from evbus.testing._profiles import in_memory
from evbus.testing._sync import SyncBus
from evbus.testing._watch import Dead, Sent

__all__ = ["Bus", "Dead", "Failure", "Sent", "SyncBus", "bus", "in_memory", "prepared", "sync_bus"]

#: The profiles of a bus that is told of none: whatever the profile of an event, it stays in the process.
PROFILES: dict[str, Any] = {"internal": {"*": {}}}


@contextlib.contextmanager
def prepared(
    profiles: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    hub: Any = None,
    plugin_dirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    listeners: Iterable[ModuleType | Callable[..., Any]] = (),
    settle_timeout: float = 5.0,
    **options: Any,
) -> Iterator[Bus]:
    """Make a bus that is not started; for plugins of other test frameworks. Parameters as for :func:`bus`.

    It is started with ``await made.start()``, and ended with ``await made.finish()``, or with
    ``await made.abandon()`` when the test has failed.
    """
    if hub is None:
        hub = installed.new_hub()
    installed.merge(hub)
    if hub.evbus.STARTED:
        raise EvbusError("the bus of this hub is started already; hand the hub over before")
    contexts = _profiles(profiles)
    before = hub.OPT
    with tempfile.TemporaryDirectory(prefix="evbus-test-") as folder:
        own = {"dead_store": str(Path(folder) / "dead.jsonl"), "drain_timeout": 1.0, **options}
        folders = [plugin_dirs] if isinstance(plugin_dirs, (str, os.PathLike)) else list(plugin_dirs)
        if folders:
            own["plugin_dirs"] = [os.fspath(one) for one in folders]
        try:
            change(hub, **own)
            hub.evbus.init.refuse_unknown(options)
            # A test subscribes what it needs.
            hub.event.FORGOTTEN.muted = True
            hub.event.listen(*modules.places(listeners))
            with Bus(hub, contexts, settle_timeout).watched() as made:
                yield made
        finally:
            hub.OPT = before


@contextlib.asynccontextmanager
async def bus(
    profiles: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    hub: Any = None,
    plugin_dirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    listeners: Iterable[ModuleType | Callable[..., Any]] = (),
    settle_timeout: float = 5.0,
    **options: Any,
) -> AsyncIterator[Bus]:
    """Make a hub and start its bus; at the end let everything be handled, and stop it.

    :param profiles: ``{provider: {name: data}}``, or the path of a YAML file of them; see :func:`in_memory`
        for an application's own. Default: every profile delivers within the process.
    :param hub: the application's own hub; default: a new one.
    :param plugin_dirs: folders with the application's plugins, such as its ``listener/``.
    :param listeners: one or several: modules and packages whose functions and classes with
        ``@event_listener`` listen, or such functions and classes.
    :param settle_timeout: seconds that everything may take to be handled, in :meth:`Bus.settle` and at the
        end; default 5.
    :param options: other options of the section ``evbus``.
    :raises AssertionError: at the end, when something became a dead letter that the test has neither looked
        at nor wanted; with the traceback of the listener.
    :raises ConfigError: a profile or an option has to be mended, or a plugin, which else is only logged.
    """
    __tracebackhide__ = True
    with prepared(
        profiles,
        hub=hub,
        plugin_dirs=plugin_dirs,
        listeners=listeners,
        settle_timeout=settle_timeout,
        **options,
    ) as made:
        await made.start()
        try:
            yield made
        except BaseException:
            await made.abandon()
            raise
        await made.finish()


@contextlib.contextmanager
def sync_bus(
    profiles: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    hub: Any = None,
    plugin_dirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    listeners: Iterable[ModuleType | Callable[..., Any]] = (),
    settle_timeout: float = 5.0,
    **options: Any,
) -> Iterator[SyncBus]:
    """Do as :func:`bus` does for plain functions; the bus runs in a thread of its own."""
    __tracebackhide__ = True
    with prepared(
        profiles,
        hub=hub,
        plugin_dirs=plugin_dirs,
        listeners=listeners,
        settle_timeout=settle_timeout,
        **options,
    ) as made:
        sync = SyncBus(made)
        sync.start()
        try:
            yield sync
        except BaseException:
            sync.abandon()
            raise
        sync.finish()


def _profiles(profiles: Mapping[str, Any] | str | os.PathLike[str] | None) -> Mapping[str, Any]:
    if profiles is None:
        return PROFILES
    if isinstance(profiles, Mapping):
        return profiles
    return cast("dict[str, Any]", expanded(load_yaml(Path(profiles)), os.environ, source=str(profiles)))
