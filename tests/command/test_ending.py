"""When the command ends, by which exit code, and that it ends at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evbus import _program
from evbus.engine.core.lifecycle import signals as lifecycle_signals
from evbus.engine.core.settings import Settings
from tests.command.kit import Shell, wait_for

SLOW = "import asyncio\nasync def publish(hub, ctx, body):\n    await asyncio.sleep(0.02)\n"
INTERNAL = "internal: {default: {}}\n"
#: Seconds within which a process has ended that takes none for delivering; for a machine with much to do.
SOON = 30
EVENT = '{"routing_key": "w", "body": 1}\n'


def _listener(body: str, top: str = "") -> str:
    return f"{top}\nfrom evbus.api import event_listener\n\n@event_listener('w')\n{body}"


def _lines(count: int) -> str:
    return "".join(json.dumps({"routing_key": "w", "body": number}) + "\n" for number in range(count))


# The end of the input


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_at_the_end_of_the_input_a_slow_destination_gets_all(shell: Shell, source: str) -> None:
    shell.file("plugins/ingress/slow.py", SLOW)
    shell.file("slow.yml", "slow: {default: {}}\n")
    shell.file("in.jsonl", _lines(75))
    args = ("-p", "slow.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.5")
    if source == "file":
        done = shell.run("run", "in.jsonl", *args)
    else:
        done = shell.run("run", *args, stdin=_lines(75))
    assert done.returncode == 0, done.stderr
    assert "slow.slow.default        75         75" in done.stderr


def test_at_the_end_of_the_input_listeners_go_on_as_long_as_they_handle(shell: Shell) -> None:
    shell.file(
        "plugins/listener/w.py",
        _listener("async def on(event):\n    await asyncio.sleep(0.02)\n", "import asyncio"),
    )
    shell.file("p.yml", INTERNAL)
    args = ("-p", "p.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.5")
    done = shell.run("run", *args, stdin=_lines(75))
    assert done.returncode == 0, done.stderr
    assert shell.run("put", "1", "-k", "w", *args).returncode == 0


def test_a_destination_that_takes_nothing_is_given_up_and_told_by_exit_code_1(shell: Shell) -> None:
    shell.file(
        "plugins/ingress/slow.py",
        "import asyncio\nasync def publish(hub, ctx, body):\n    await asyncio.Event().wait()\n",
    )
    shell.file("slow.yml", "slow: {default: {}}\n")
    done = shell.run(
        "run", "-p", "slow.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.3", stdin=_lines(3)
    )
    assert done.returncode == 1
    assert [one["dead"]["attempts"] for one in shell.dead()] == [1, 0, 0]


def test_what_listeners_leave_is_exit_code_1_and_a_number_in_the_table(shell: Shell) -> None:
    shell.file(
        "plugins/listener/w.py",
        _listener("async def on(event):\n    await asyncio.Event().wait()\n", "import asyncio"),
    )
    shell.file("p.yml", INTERNAL)
    done = shell.run(
        "run", "-p", "p.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.3", stdin=_lines(7)
    )
    assert done.returncode == 1
    row = next(line for line in done.stderr.splitlines() if line.startswith("w "))
    assert row.split() == ["w", "w", "0", "0", "7", "0"]
    assert len(shell.dead()) == 7


def test_a_signal_after_the_end_of_the_input_begins_the_drain_timeout(shell: Shell) -> None:
    shell.file(
        "plugins/ingress/slow.py",
        SLOW.replace("0.02", "0.2").replace("async def", "print('loaded', flush=True)\nasync def"),
    )
    shell.file("slow.yml", "slow: {default: {}}\n")
    shell.file("in.jsonl", _lines(500))
    with shell.start(
        "run", "in.jsonl", "-p", "slow.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.5"
    ) as process:
        wait_for(process.stdout, "loaded")
        # It reads and delivers for longer than the limit; nothing tells of that but the time.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 1
    assert 0 < len(shell.dead()) < 500


# Exit codes of a worker


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("    print('handled', flush=True)\n", 0),
        ("    print('handled', flush=True)\n    await asyncio.Event().wait()\n", 1),
    ],
    ids=["clean", "left"],
)
def test_a_worker_ends_by_whether_its_stop_left_anything(shell: Shell, body: str, code: int) -> None:
    text = _listener(f"async def on(event):\n{body}", "import asyncio")
    shell.file("plugins/listener/w.py", text)
    shell.file("p.yml", INTERNAL)
    with shell.start("run", "-p", "p.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.5") as process:
        process.stdin.write(EVENT)
        wait_for(process.stdout, "handled")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == code


def test_a_worker_that_gave_up_events_long_ago_stops_cleanly(shell: Shell) -> None:
    text = """import asyncio
from evbus.api import event_listener


@event_listener("w", retry={"attempts": 1})
async def on(hub, event):
    print("failing", flush=True)
    raise KeyError


def __init__(hub):
    async def send():
        await hub.evbus.init.join()
        await hub.evbus.broker.put(routing_key="w", body=1)

    hub.listener.TASK = asyncio.ensure_future(send())
"""
    shell.file("plugins/listener/w.py", text)
    shell.file("p.yml", INTERNAL)
    with shell.start("listen", "-p", "p.yml", "--plugin-dirs", "plugins") as process:
        wait_for(process.stderr, "listening")
        wait_for(process.stdout, "failing")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
        assert len(shell.dead()) == 1


# The end of the process, whatever plugins do

HUNG_THREAD = _listener("def on(event):\n    print('in', flush=True)\n    time.sleep(3600)\n", "import time")
BLOCKED_LISTENER = _listener(
    "async def on(event):\n    print('in', flush=True)\n    time.sleep(3600)\n", "import time"
).replace("'w'", "'w', concurrency=2")
STUBBORN_LISTENER = _listener(
    "async def on(event):\n    print('in', flush=True)\n"
    "    while True:\n        try:\n            await asyncio.Event().wait()\n"
    "        except asyncio.CancelledError:\n            pass\n",
    "import asyncio",
)
START = "import asyncio, time\nasync def publish(hub, ctx, body):\n    print('in', flush=True)\n"
TO_THREAD = START + "    await asyncio.to_thread(time.sleep, 3600)\n"
STUBBORN = (
    START + "    while True:\n        try:\n            await asyncio.Event().wait()\n"
    "        except asyncio.CancelledError:\n            pass\n"
)
BLOCKS = START + "    time.sleep(3600)\n"


def _stop(shell: Shell, room: str, plugin: str, signals: int) -> tuple[int, str, float]:
    shell.file(f"plugins/{room}/slow.py", plugin)
    shell.file("slow.yml", "slow: {default: {}}\n" if room == "ingress" else INTERNAL)
    with shell.start(
        "run", "-p", "slow.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.5"
    ) as process:
        process.stdin.write(EVENT * 3)
        wait_for(process.stdout, "in")
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = wait_for(process.stderr, "a second signal stops at once")
        if signals > 1:
            process.send_signal(signal.SIGTERM)
        code = process.wait(SOON)
        return code, said + process.stderr.read(), time.monotonic() - begun


CASES = [
    ("listener", HUNG_THREAD),
    ("listener", BLOCKED_LISTENER),
    ("listener", STUBBORN_LISTENER),
    ("ingress", TO_THREAD),
    ("ingress", STUBBORN),
    ("ingress", BLOCKS),
]
NAMES = ["hung_thread", "blocked_listener", "stubborn_listener", "to_thread", "stubborn", "blocks"]


@pytest.mark.parametrize(("room", "plugin"), CASES, ids=NAMES)
@pytest.mark.parametrize("signals", [1, 2])
def test_the_process_ends_and_what_is_left_is_in_the_dead_store(
    shell: Shell, room: str, plugin: str, signals: int
) -> None:
    code, said, _ = _stop(shell, room, plugin, signals)
    assert code == (1 if signals == 1 else 130), said
    assert len(shell.dead()) == 3, said
    assert "Traceback" not in said
    if plugin in (BLOCKS, BLOCKED_LISTENER):
        assert "the event loop is blocked in " in said
        assert "slow.py:" in said
        assert f"written to {shell.state}" in said


def test_a_stop_beside_a_broker_that_is_down_writes_the_dead_store_and_has_time_for_it(shell: Shell) -> None:
    shell.file("down.yml", "amqp: {default: {url: 'amqp://127.0.0.1:1/', queue: q, first_connect: wait}}\n")
    shell.file("plugins/pipeline/say.py", "def send(hub, envelope):\n    print(envelope.body, flush=True)\n")
    args = ("-p", "down.yml", "--plugin-dirs", "plugins", "--drain-timeout", "0.5")
    with shell.start("run", *args) as process:
        process.stdin.write(_lines(20))
        wait_for(process.stdout, "b'19'")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 1
    assert len(shell.dead()) == 20
    # By default it is done before the SIGKILL that usually comes 30 s after the SIGTERM.
    assert Settings().drain_timeout + lifecycle_signals.OVERTIME + _program.LINGER < 30


def test_what_a_blocked_loop_leaves_is_not_said_to_be_where_it_cannot_be(shell: Shell) -> None:
    shell.file("state", "")
    code, said, _ = _stop(shell, "ingress", BLOCKS, 2)
    assert code == 130
    assert "3 dead events are lost: cannot write " in said
    assert "written to" not in said


def test_ctrl_c_while_the_command_imports_is_no_traceback(shell: Shell) -> None:
    shell.file(
        "yaml.py", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise ImportError('it went on')\n"
    )
    done = shell.run("plugins", PYTHONPATH=f"{shell.folder}:{Path(__file__).parent.parent.parent}")
    assert (done.returncode, done.stderr) == (130, "")


# Closed streams, no home, nothing that can be written


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("check -p p.yml", 0),
        ("dead", 0),
        ("plugins match", 0),
        ("put 1 -p p.yml", 0),
        ("run in.jsonl -p p.yml", 0),
        ("tail in.jsonl", 0),
        ("--help", 0),
        ("graph -p p.yml", 2),
        ("demo --count 1 --rate 0 --drain-timeout 0.5", 1),
    ],
)
def test_a_closed_standard_output_is_no_traceback(shell: Shell, command: str, code: int) -> None:
    shell.file("in.jsonl", EVENT)
    assert _closed(shell, f"{command} >&-") == code


def _closed(shell: Shell, command: str) -> int:
    settings = shell._settings({})
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m evbus {command}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **settings,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Error" not in done.stderr, done.stderr
    return done.returncode


def _homeless(shell: Shell, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user that has no home directory."""
    program = (
        "import os, pwd, sys\n"
        "def none(*_): raise KeyError\n"
        "pwd.getpwuid = pwd.getpwnam = none\n"
        "from evbus import scripts\n"
        "scripts.main()\n"
    )
    settings = shell._settings({})
    for name in ("HOME", "XDG_STATE_HOME"):
        settings["env"].pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **settings,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_without_a_home_directory_everything_works_that_needs_none(shell: Shell) -> None:
    done = _homeless(shell, "put", "1", "-p", "p.yml", "-q")
    assert done.returncode == 0
    assert "dead events will be lost: cannot write ~/.local/state" in done.stderr
    checked = _homeless(shell, "check", "-p", "p.yml")
    assert checked.returncode == 0
    assert "warning: dead events will be lost: cannot write ~/.local/state" in checked.stdout
    assert not (shell.folder / "~").exists()


def test_without_a_home_directory_a_dead_event_is_told_to_be_lost(shell: Shell) -> None:
    shell.file(
        "plugins/ingress/never.py",
        "from evbus.errors import Rejected\nasync def publish(hub, ctx, body):\n    raise Rejected('no')\n",
    )
    shell.file("never.yml", "never: {default: {}}\n")
    done = _homeless(shell, "put", "1", "-p", "never.yml", "--plugin-dirs", "plugins")
    assert done.returncode == 1
    assert "1 dead event is lost: cannot write ~/.local/state" in done.stderr
    assert "are kept in ~" not in done.stderr
    assert not (shell.folder / "~").exists()


@pytest.mark.parametrize(
    "args",
    [
        ("put", "1", "-p", "~/p.yml"),
        ("put", "1", "-p", "file.yml"),
        ("put", "1", "-p", "tls.yml"),
        ("put", "1", "-p", "p.yml", "--plugin-dirs", "~/plugins"),
        ("-c", "sign.yml", "put", "1", "-p", "p.yml"),
        ("run", "~/in.jsonl", "-p", "p.yml"),
        ("graph", "-p", "p.yml", "-o", "~/out.txt"),
        ("dead",),
        ("dead", "~/dead.jsonl"),
        ("replay", "-p", "p.yml"),
    ],
)
def test_a_path_below_a_home_that_is_not_there_is_one_sentence(shell: Shell, args: tuple[str, ...]) -> None:
    shell.file("file.yml", "file: {default: {path: ~/out.jsonl}}\n")
    shell.file("tls.yml", "stomp: {default: {url: stomp+ssl://h, destination: /a, tls: {ca_file: ~/ca}}}\n")
    shell.file("sign.yml", "evbus: {pipeline: [sign], sign_keys: ['@~/keys']}\n")
    done = _homeless(shell, *args)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "dead events will be lost" not in line]
    (line,) = lines
    assert line.startswith("evbus: ")
    assert "there is no home directory for its '~'; set HOME" in line


def test_the_home_of_a_user_who_is_not_there_is_told_by_the_name(shell: Shell) -> None:
    done = shell.run("put", "1", "-p", "~nobody-of-this-name/p.yml")
    assert done.returncode == 2
    assert "there is no user 'nobody-of-this-name' with a home directory" in done.stderr
