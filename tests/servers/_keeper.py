"""Run as a script: starts the programs it is told of, and kills them when nobody is left to tell it more.

One order a line on stdin, ``{"argv": [...], "env": {...}, "log": path}``; one answer a line on stdout,
``{"pid": 1}`` or ``{"error": "..."}``. The end of stdin is the end of all of them, and it comes by itself
when the process that gives the orders is killed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    with Path(order["log"]).open("ab") as log:
        return subprocess.Popen(
            order["argv"],
            env=order["env"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    children: list[subprocess.Popen[bytes]] = []
    try:
        for line in sys.stdin:
            # Only here are the dead ones reaped: until then their ids cannot be given to anybody else.
            children = [child for child in children if child.poll() is None]
            answer: dict[str, Any]
            try:
                children.append(start(json.loads(line)))
                answer = {"pid": children[-1].pid}
            except OSError as exc:
                answer = {"error": str(exc)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


if __name__ == "__main__":
    main()
