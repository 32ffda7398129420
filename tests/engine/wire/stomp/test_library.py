"""What is used of stomp.py: it fails here, and not in production, when a release changes it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from evbus.engine.wire.stomp.library import parse, protocol


def test_control_frames_are_written_as_the_specification_wants_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    written: list[bytes] = []
    made = protocol(written.append, ("host", 61613), "/")
    made.connect("guest", "hunter22", headers={"heart-beat": "1,1"})
    made.subscribe("/queue/a:b", "1", "client-individual", {"prefetch-count": "7"}, receipt="2")
    made.unsubscribe("1", receipt="3")
    made.disconnect(receipt="4")
    assert written == [
        b"STOMP\naccept-version:1.2\nheart-beat:1,1\nhost:/\nlogin:guest\npasscode:hunter22\n\n\0",
        b"SUBSCRIBE\nack:client-individual\ndestination:/queue/a\\cb\nid:1\nprefetch-count:7\nreceipt:2\n\n\0",
        b"UNSUBSCRIBE\nid:1\nreceipt:3\n\n\0",
        b"DISCONNECT\nreceipt:4\n\n\0",
    ]
    assert "hunter22" not in caplog.text


def test_what_comes_is_read_as_the_specification_wants_it() -> None:
    assert parse(b"ERROR\r\nmessage:a\\cb\\nc\\\\\r\nmessage:no\r\n\r\nfirst\n\nsecond\0") == (
        "ERROR",
        {"message": "a:b\nc\\"},
        b"first\n\nsecond\0",
    )
    assert parse(b"CONNECTED\nversion:1.2\nserver:\n\n") == (
        "CONNECTED",
        {"version": "1.2", "server": ""},
        b"",
    )


CONNECTING = """
import asyncio, os, socket, sys, threading
before, answer, asked = dict(os.environ), threading.Event(), []
def ask(*_):
    asked.append(threading.current_thread() is threading.main_thread())
    answer.wait()
    raise OSError
socket.gethostbyname = socket.getfqdn = ask
from evbus.engine.wire.stomp import connect, consume, describe, profile, requests
assert "stomp" not in sys.modules
async def main():
    asyncio.get_running_loop().call_later(0.01, answer.set)
    where = profile.Profile(url="stomp://127.0.0.1:1")
    await connect.connection(where, "p").open()
try:
    asyncio.run(main())
except connect.Unavailable as exc:
    print(exc)
assert asked and not any(asked) and "stomp" in sys.modules
assert os.environ == before
"""


def test_name_servers_that_are_slow_hold_nobody_up_and_the_environment_is_left_alone() -> None:
    env = {key: value for key, value in os.environ.items() if key != "STOMP_SKIP_HOSTNAME_SCAN"}
    command = [sys.executable, "-c", CONNECTING]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "127.0.0.1:1 refused the connection" in done.stdout
