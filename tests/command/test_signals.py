"""What signals do to the running command."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.command.kit import Shell, wait_for

EVENT = '{"routing_key": "a", "body": 1}\n'
START = (
    "import asyncio, time\n"
    "async def publish(hub, ctx, routing_key, body):\n"
    "    print('publishing', flush=True)\n"
)
HANGS = START + "    await asyncio.Event().wait()\n"
STUBBORN = START + (
    "    while True:\n        try:\n            await asyncio.Event().wait()\n"
    "        except asyncio.CancelledError:\n            pass\n"
)
BLOCKS = START + "    time.sleep(300)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_reading_and_drains(shell: Shell, number: signal.Signals) -> None:
    with shell.start("tail") as process:
        process.stdin.write(EVENT)
        assert process.stdout.readline() == "a 1\n"
        process.send_signal(number)
        assert process.wait(60) == 0
        assert "internal.internal.*         1          1" in process.stderr.read()


def _stop_twice(shell: Shell, plugin: str) -> subprocess.Popen[str]:
    shell.file("plugins/ingress/slow.py", plugin)
    shell.file("slow.yml", 'slow:\n  "*": {}\n')
    with shell.start("run", "-p", "slow.yml", "--plugin-dirs", "plugins") as process:
        process.stdin.write(EVENT * 3)
        wait_for(process.stdout, "publishing")
        process.send_signal(signal.SIGINT)
        wait_for(process.stderr, "a second signal stops at once")
        process.send_signal(signal.SIGINT)
        process.wait(20)
        return process


@pytest.mark.parametrize("plugin", [HANGS, STUBBORN], ids=["hangs", "stubborn"])
def test_the_second_signal_stores_what_is_left_and_stops(shell: Shell, plugin: str) -> None:
    assert _stop_twice(shell, plugin).returncode == 130
    assert len(shell.dead()) == 3


def test_the_second_signal_ends_a_plugin_that_blocks_the_loop(shell: Shell) -> None:
    assert _stop_twice(shell, BLOCKS).returncode == 130


def test_signals_stop_the_command_although_a_plugin_has_the_loop_watch_others(shell: Shell) -> None:
    watching = START.replace("asyncio, time", "asyncio, signal") + (
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, print)\n"
        "    await asyncio.Event().wait()\n"
    )
    assert _stop_twice(shell, watching).returncode == 130
    assert len(shell.dead()) == 3


def test_a_signal_ends_a_put_that_waits_for_room(shell: Shell) -> None:
    shell.file("plugins/ingress/slow.py", HANGS)
    shell.file("slow.yml", 'slow:\n  "*": {delivery: {buffer: 1}}\n')
    shell.file("c.yml", "evbus: {queue_limit: 2, drain_timeout: 0.1}\n")
    with shell.start("run", "-p", "slow.yml", "-c", "c.yml", "--plugin-dirs", "plugins") as process:
        process.stdin.write(EVENT * 100)
        wait_for(process.stdout, "publishing")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
    assert 1 <= len(shell.dead()) < 100


def test_a_signal_while_destinations_are_opened_cancels_the_start(shell: Shell) -> None:
    plugin = (
        "import asyncio\n__func_alias__ = {'open_': 'open'}\n"
        "async def open_(hub, ctx):\n    print('opening', flush=True)\n    await asyncio.Event().wait()\n"
        "async def publish(hub, ctx, routing_key, body): ...\n"
    )
    shell.file("plugins/ingress/slow.py", plugin)
    shell.file("slow.yml", 'slow:\n  "*": {}\n')
    with shell.start("run", "-p", "slow.yml", "--plugin-dirs", "plugins") as process:
        wait_for(process.stdout, "opening")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()


def test_a_console_that_nobody_reads_ends_the_command(shell: Shell) -> None:
    with shell.start("demo", "--rate", "0") as process:
        assert process.stdout.readline().startswith("random {")
        process.stdout.close()
        assert process.wait(60) == 1
        assert "nobody reads stdout any more" in process.stderr.read()
