"""Plugin folders, and a bus that runs while a test looks on."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pop.hub

WAIT = 20.0

#: An ingress plugin that keeps what it gets in ``hub.ingress.GOT[<name>]``.
KEEPER = """
def __init__(hub):
    hub.ingress.{name}.ACCT = ["{name}"]


async def publish(hub, ctx, routing_key, body):
    vars(hub.ingress).setdefault("GOT", {{}}).setdefault("{name}", []).append(body)
"""


def write(root: Path, **files: str) -> Path:
    """Write plugin files: ``ingress__slack="..."`` is ``ingress/slack.py``."""
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        path.write_text(textwrap.dedent(text))
        path.chmod(0o644)
    return root


def package(site: Path, name: str, dyne: dict[str, list[str]], **files: str) -> Path:
    """Write a package that merges folders into others' subsystems, as an installed one does."""
    root = site / name
    write(root, **files)
    (root / "conf.py").write_text(f"DYNE = {dyne!r}\n")
    return root


def new_hub(**options: Any) -> Any:
    """Return a hub with a bus that has these options."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
    hub.OPT = hub.pop.data.imap({"evbus": options})
    return hub


def states(hub: Any, room: str = "ingress") -> dict[str, str]:
    """Return the state of each plugin."""
    return {plugin.name: plugin.state for plugin in hub.evbus.init.plugins()[room]}


def plugin(hub: Any, name: str, room: str = "ingress") -> Any:
    """Return what became of one plugin file, the only one of its name that is not loaded."""
    found = [one for one in hub.evbus.init.plugins()[room] if one.name == name and one.state != "loaded"]
    (one,) = found
    return one


@contextlib.asynccontextmanager
async def running(hub: Any, contexts: Any) -> AsyncIterator[None]:
    """Start the bus, and at the end stop it: then everything is delivered."""
    task = asyncio.ensure_future(hub.evbus.init.start(contexts))
    await asyncio.sleep(0)  # a join before the start has begun tells how the last one failed
    try:
        await asyncio.wait_for(hub.evbus.init.join(), WAIT)
    except BaseException:
        # What was begun, such as the other connections, goes on until the bus is stopped.
        await asyncio.wait_for(hub.evbus.init.stop(), WAIT)
        await asyncio.wait({task}, timeout=WAIT)
        if task.done() and not task.cancelled():
            task.exception()  # the same; looked at, or asyncio tells of it in the middle of another test
        raise
    try:
        yield
    finally:
        await asyncio.wait_for(hub.evbus.init.stop(), WAIT)
        await asyncio.wait_for(task, WAIT)


async def bodies(hub: Any, key: str | None, count: int) -> list[bytes]:
    """Return the next bodies of an internal queue."""
    queue = await hub.ingress.internal.get(key)
    return [await asyncio.wait_for(queue.get(), WAIT) for _ in range(count)]


def go(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a test's coroutine; one that hangs fails."""
    return asyncio.run(asyncio.wait_for(main(), WAIT))
