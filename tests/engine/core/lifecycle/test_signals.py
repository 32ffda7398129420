"""What signals do to a program that asked bus() to take them; for the command see tests/command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evbus import api
from evbus.engine.core.lifecycle.signals import Control
from evbus.errors import EvbusError
from tests.evbus.kit import WAIT, write

ROOT = Path(__file__).parents[4]
BOTH = [signal.SIGINT, signal.SIGTERM]
SLOW = """\
import asyncio


async def publish(hub, ctx, body):
    await asyncio.sleep(0.2)
    print("got", body, flush=True)
"""
HANGS = "import asyncio\n\n\nasync def publish(hub, ctx, body):\n    await asyncio.Event().wait()\n"
OPENS = """\
import asyncio


async def open(hub, ctx):
    print("ready", flush=True)
    await asyncio.Event().wait()


async def publish(hub, ctx, body):
    pass
"""
START = """\
import asyncio, sys, time
from evbus.api import bus

async def main():
    options = {"plugin_dirs": ["plugins"], "dead_store": "dead.jsonl", "drain_timeout": %s}
    async with bus({"%s": {"default": {}}}, signals=True, **options) as events:
        for number in range(3):
            await events.put(body=number)
        print("ready", flush=True)
        %s
    print("behind", events.report, flush=True)
    return 7

sys.exit(asyncio.run(main()))
"""
WAITS = "await asyncio.Event().wait()"


@contextmanager
def program(folder: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    (folder / "app.py").write_text(text)
    with subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_leaves_the_block_and_delivers(tmp_path: Path, number: signal.Signals) -> None:
    write(tmp_path / "plugins", ingress__slow=SLOW)
    with program(tmp_path, START % (20, "slow", WAITS)) as process:
        _ready(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT)
    assert out.splitlines()[:3] == ["got b'0'", "got b'1'", "got b'2'"]
    assert out.splitlines()[3].startswith("behind everything was delivered")
    assert (process.returncode, err) == (7, "")


@pytest.mark.parametrize("number", BOTH)
def test_what_is_not_delivered_in_time_is_in_the_dead_store(tmp_path: Path, number: signal.Signals) -> None:
    write(tmp_path / "plugins", ingress__hangs=HANGS)
    with program(tmp_path, START % (0.3, "hangs", WAITS)) as process:
        _ready(process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=WAIT)
    assert out.startswith("behind not delivered: hangs.hangs.default: 3; written to dead.jsonl")
    assert process.returncode == 7
    lines = (tmp_path / "dead.jsonl").read_text().splitlines()
    assert [json.loads(line)["body"] for line in lines] == [0, 1, 2]


def test_a_second_signal_ends_the_delivering(tmp_path: Path) -> None:
    write(tmp_path / "plugins", ingress__hangs=HANGS)
    told = f'try:\n            {WAITS}\n        finally:\n            print("left", flush=True)'
    with program(tmp_path, START % (10_000, "hangs", told)) as process:
        _ready(process)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "left\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=WAIT)
    assert out.startswith("behind not delivered: hangs.hangs.default: 3")
    assert process.returncode == 7


def test_a_block_that_does_not_wait_is_ended_with_the_process(tmp_path: Path) -> None:
    write(tmp_path / "plugins", ingress__hangs=HANGS)
    with program(tmp_path, START % (0, "hangs", "time.sleep(10_000)")) as process:
        _ready(process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT)
    assert (out, process.returncode) == ("", 1)
    assert "the process did not end by itself; the event loop is blocked in" in err
    assert err.count("not delivered: hangs.hangs.default: 3; written to dead.jsonl") == 1


def test_a_signal_before_the_start_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "plugins", ingress__hangs=OPENS)
    with program(tmp_path, START % (1, "hangs", WAITS)) as process:
        _ready(process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=WAIT)
    assert err.endswith("evbus.errors.EvbusError: a signal told the bus to stop before it had started\n")


def test_the_handlers_are_put_back() -> None:
    async def main() -> None:
        async with api.bus({"internal": {"*": {}}}, signals=True):
            assert [signal.getsignal(number) for number in BOTH] != before
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    # asyncio.run has a handler of its own for SIGINT.
    loop = asyncio.new_event_loop()
    before = [signal.getsignal(number) for number in BOTH]
    try:
        loop.run_until_complete(asyncio.wait_for(main(), WAIT))
    finally:
        loop.close()
    assert [signal.getsignal(number) for number in BOTH] == before


def test_only_the_main_thread_can_take_signals() -> None:
    async def main() -> None:
        async with api.bus({}, signals=True):
            raise AssertionError("it was started")

    async def elsewhere() -> None:
        await asyncio.to_thread(asyncio.run, main())

    with pytest.raises(EvbusError, match="signals=True: only the main thread gets signals"):
        asyncio.run(elsewhere())


# A block that is left


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work(), WAIT))


def test_a_block_is_left_where_it_waits() -> None:
    async def work() -> list[str]:
        block, seen = Control(), []
        async with block:
            asyncio.get_running_loop().call_soon(block.leave)
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("left")
            seen.append("never")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        return [*seen, "behind"]

    assert run(work) == ["left", "behind"]


def test_a_block_that_ends_when_it_is_told_to_leaves_no_cancellation_behind() -> None:
    async def work() -> int:
        block = Control()
        async with block:
            block.leave()
        await asyncio.sleep(0)
        async with block:
            await asyncio.sleep(0)
            raise AssertionError("a block that was left is entered no more")
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run(work) == 0


def test_another_cancellation_and_other_errors_come_out_of_a_block() -> None:
    async def cancelled() -> None:
        block = Control()
        async with block:
            block.leave()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.Event().wait()

    async def fails_at_its_end() -> None:
        block = Control()
        async with block:
            block.leave()
            try:
                await asyncio.Event().wait()
            finally:
                raise KeyError("mine")

    async def work() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(cancelled())
        with pytest.raises(KeyError):
            async with Control() as _:
                raise KeyError("mine")
        with pytest.raises(KeyError):
            await fails_at_its_end()
        await asyncio.sleep(0)

    run(work)
