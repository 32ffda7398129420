"""A process that has imported what the command imports, and copies itself for each command that tests run.

A new interpreter takes longer to import that than the command to do its work. The copy is as clean as a new
one: nothing but imports has happened in this process. `python -m tests.command.origin NUMBER` serves the
socket of that number.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
from typing import Any

from evbus import scripts
from evbus.engine.core.plugins import installed


def load() -> None:
    """Import what commands do."""
    hub = installed.new_hub()
    for room in ("log", "config"):
        hub.pop.sub.add(dyne_name=room)
    hub.pop.sub.add(subname="command", pypath="evbus.command")
    importlib.import_module("evbus._program")


def serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Answer each request with the number of a copy, and then with its exit code.

    Returns the request, and the three streams, in the copy; None when no more requests come.
    """
    while True:
        request, streams, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not request:
            return None
        pid = os.fork()
        if not pid:
            requests.close()
            return json.loads(request), streams
        for stream in streams:
            os.close(stream)
        requests.send(b"%d" % pid)
        requests.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Be as a new interpreter that has begun with ``python -m evbus`` in a folder."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115 - for as long as there is this process
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:1] = [request["cwd"], request["env"]["PYTHONPATH"]]
    sys.argv[:] = ["evbus", *request["command"]]
    sys.modules["__main__"] = importlib.import_module("evbus.__main__")


if __name__ == "__main__":
    load()
    gc.collect()
    gc.freeze()  # what is old stays as it is, and the memory shared
    found = serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        become(*found)
        scripts.main()
