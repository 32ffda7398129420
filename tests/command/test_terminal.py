"""What is shown on a terminal, and only there."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys

from tests.command.kit import ROOT, TIMEOUT, Shell


def _on_terminal(
    shell: Shell, *args: str, until: bytes, feed: bytes, number: signal.Signals | None = None
) -> tuple[bytes, int]:
    """Run a command with a terminal for all it reads and writes; once ``until`` was seen, type Ctrl-D.

    :param number: a signal to send instead.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "evbus", *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=shell.folder,
        env={**os.environ, "HOME": str(shell.folder), "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
    )
    os.close(theirs)
    seen, typed = b"", False
    try:
        os.write(ours, feed)
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # nobody is at the other end any more
                break
            if until in seen and not typed:
                typed = True
                if number is None:
                    os.write(ours, b"\x04")
                else:
                    process.send_signal(number)
        return seen, process.wait(TIMEOUT)
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def test_a_terminal_sees_a_hint_a_status_line_and_the_table(shell: Shell) -> None:
    seen, code = _on_terminal(shell, "run", "-p", "p.yml", until=b" 1 delivered", feed=b'{"body": 1}\nbad\n')
    assert code == 3
    assert b"reading lines from the terminal; Ctrl-D ends" in seen
    assert b"\r\x1b[2K1 accepted  1 delivered  0 queued  0 dead" in seen
    assert b"\r\x1b[2Kevbus: standard input:2: the line is not valid JSON" in seen
    assert seen.rindex(b"destination ") > seen.rindex(b" accepted  1 delivered")


def test_no_status_line_goes_between_events_that_are_printed(shell: Shell) -> None:
    seen, code = _on_terminal(shell, "tail", until=b"\r\n1\r\n", feed=b'{"body": 1}\n')
    assert code == 0
    assert b"queued  0 dead" not in seen
    assert b"internal.internal.*" in seen


def test_services_that_are_watched_are_drawn_again(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    shell.file("services.yml", f"registry: {{static: {{mall: {{rest: '{url}'}}}}}}\n")
    watch = ("services", "--services", "services.yml", "--watch")
    drawn = b"\x1b[H\x1b[Jcomponent  channels  address"
    seen, code = _on_terminal(shell, *watch, until=b"Ctrl-C ends", feed=b"", number=signal.SIGINT)
    assert code == 0
    assert drawn in seen
    assert b"away    nothing listens there (connection refused)\r\nevery 2 s; Ctrl-C ends\r\n" in seen
