"""What is used of stomp.py: it fails here, and not in production, when a release changes it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from evbus.engine.wire.stomp.library import protocol


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


def test_importing_it_asks_no_name_server_and_leaves_the_environment_alone() -> None:
    code = (
        "import os, socket\n"
        "def ask(*_): raise SystemExit('asked')\n"
        "socket.gethostbyname = socket.getfqdn = ask\n"
        "import evbus.engine.wire.stomp.library\n"
        "assert 'STOMP_SKIP_HOSTNAME_SCAN' not in os.environ\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "STOMP_SKIP_HOSTNAME_SCAN"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
