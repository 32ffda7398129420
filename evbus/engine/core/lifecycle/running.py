"""A bus from its start to its end, as programs, tests and the commands run it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from evbus.engine.core.lifecycle.signals import Control, handled
from evbus.errors import EvbusError

__all__ = ["control_of", "hurry", "running"]


def control_of(the_hub: Any, *, insist: bool = False) -> Control:
    """Return what stops the bus of a hub, and cuts what its rooms do short with it."""
    return Control(the_hub.evbus.ENGINE.limit, partial(hurry, the_hub), insist=insist)


def hurry(the_hub: Any) -> None:
    """Let a stop of the bus that is under way, or to come, deliver no more."""
    the_hub.evbus.ENGINE.hurry()
    for hurry_room in the_hub.evbus.LIFE["hurry"]:
        hurry_room()


@contextlib.asynccontextmanager
async def running(
    the_hub: Any,
    contexts: Mapping[str, Any],
    control: Control | None = None,
    *,
    signals: bool = False,
    quiet: bool = True,
    steady: bool = False,
) -> AsyncIterator[Control]:
    """Start the bus of a hub, and at the end deliver what is left and stop it, its rooms before it.

    :param contexts: the profiles.
    :param control: ends the block; default: one of its own.
    :param signals: let SIGINT and SIGTERM do so; see :func:`.signals.handled`.
    :param steady: unless it was left early, the stop takes as long as anything is delivered.
    :raises EvbusError: the block was left before the bus had started.
    """
    made = control or control_of(the_hub)
    bus = the_hub.evbus.init
    seconds = bus.settings().drain_timeout
    watched = handled(made, seconds, bus.record_undelivered, quiet=quiet)
    with watched if signals else contextlib.nullcontext():
        listener = asyncio.ensure_future(bus.start(contexts))
        try:
            async with made:
                await bus.join()
            # Once it runs it ends as it should, although not all of it may be ready.
            if made.left and not the_hub.evbus.STARTED:
                listener.cancel()
                raise EvbusError("a signal told the bus to stop before it had started")
            async with made:
                yield made
        finally:
            for leave in the_hub.evbus.LIFE["leave"]:
                await leave()
            made.report = await bus.stop(steady=steady and not made.left)
            await asyncio.gather(listener, return_exceptions=True)
