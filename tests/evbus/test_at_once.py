"""Busses that begin at once, event loops that are left alone, and sources that are closed in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from evbus.api import bus
from tests.evbus.kit import package, write

THREADS = """
import asyncio, threading
from evbus.api import bus

begin = threading.Barrier(6)
delivered = []

def run():
    async def main():
        async with bus({"internal": {"default": {}}}) as events:
            await events.put(routing_key="k", body=1)
            queue = await events.hub.ingress.internal.get("k")
            delivered.append(await queue.get())
    begin.wait()
    asyncio.run(main())

threads = [threading.Thread(target=run) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(delivered)
"""


def test_busses_that_start_in_several_threads_at_once_all_deliver(tmp_path: Path) -> None:
    # In a process of its own: what POP has loaded once it finds at once.
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{[b'1'] * 6}\n", "")


async def test_event_loops_that_are_installed_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = tmp_path / "imported"
    text = f"open({str(imported)!r}, 'w').close()\n\ndef get(hub):\n    raise OSError\n"
    package(tmp_path / "site", "odd_loops", {"loop": ["loops"]}, loops__odd=text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    with warnings.catch_warnings(
        action="ignore", category=DeprecationWarning
    ):  # Python 3.14 begins to drop policies
        policy = asyncio.get_event_loop_policy()
        async with bus({"internal": {"default": {}}}) as events:
            assert events.hub.pop.loop.CURRENT_LOOP is asyncio.get_running_loop()
            assert await events.hub.pop.loop.wrap(lambda: "ran") == "ran"
        assert asyncio.get_event_loop_policy() is policy
    assert not imported.exists()


WORDS = """
async def consume(hub, ctx, subscription):
    try:
        for number in range(9):
            yield number
    finally:
        hub.egress.SAID.append("source closed")
"""
#: What watches it, and what it says besides.
CONTRACTS = {
    "nothing": ("", []),
    "pre": ("def pre_consume(hub, ctx):\n    hub.egress.SAID.append('pre')\n", ["pre"]),
    "async pre": ("async def pre_consume(hub, ctx):\n    hub.egress.SAID.append('pre')\n", ["pre"]),
    "post": ("def post_consume(hub, ctx):\n    hub.egress.SAID.append('post')\n", []),
    "call": (
        (
            "async def call_consume(hub, ctx):\n    try:\n"
            "        async for one in ctx.func(*ctx.args, **ctx.kwargs):\n            yield one + 1\n"
            "    finally:\n        hub.egress.SAID.append('call closed')\n"
        ),
        [],
    ),
}


@pytest.mark.parametrize("watched", CONTRACTS)
def test_a_source_is_closed_with_the_block_whatever_watches_it(tmp_path: Path, watched: str) -> None:
    contract, before = CONTRACTS[watched]
    root = write(tmp_path / "p", egress__words=WORDS, egress__contracts__words=contract)

    async def main() -> list[Any]:
        async with bus({"words": {"words": {}}}, plugin_dirs=[root]) as events:
            said = events.hub.egress.SAID = []
            source = events.hub.evbus.bridge.sources(events._contexts, "words")[0].consume()
            async with contextlib.aclosing(source) as deliveries:
                async for one in deliveries:
                    said.append(one)
                    if len(said) > len(before):
                        break
            said.append("after")
            return list(said)

    said = asyncio.run(main())
    first = 1 if watched == "call" else 0
    closings = ["call closed", "source closed"] if watched == "call" else ["source closed"]
    assert said[: len(before) + 1] == [*before, first]
    assert said[len(before) + 1 : -1] == closings
    assert said[-1] == "after"


async def test_a_contract_sees_the_last_of_a_source_that_ends(tmp_path: Path) -> None:
    contract = "async def post_consume(hub, ctx):\n    hub.egress.SAID.append(ctx.ret)\n"
    root = write(tmp_path / "p", egress__words=WORDS, egress__contracts__words=contract)

    async with bus({"words": {"words": {}}}, plugin_dirs=[root]) as events:
        events.hub.egress.SAID = []
        source = events.hub.evbus.bridge.sources(events._contexts, "words")[0].consume()
        got = [one async for one in source]
        assert [*got, *events.hub.egress.SAID] == [*range(9), "source closed", 8]
