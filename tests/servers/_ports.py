"""Free ports of the loopback interface."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"
# Below the ports that the system gives to outgoing connections (32768 and up): there, somebody's connection
# could take the port of a broker that is down for a moment, or a client that keeps trying connect to itself.
RANGE = range(20000, 32000)

_taken: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return that many different ports on which nothing listens now, and which no other test run is given."""
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        if port not in _taken and _is_free(port) and _is_ours(port):
            _taken.add(port)
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"there are no {count} free ports from {RANGE.start} to {RANGE.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _is_ours(port: int) -> bool:
    """Take a port until this process ends: brokers open theirs a while after they were chosen."""
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@functools.cache
def _locks() -> int:
    """Open the file whose bytes are the ports; their locks end with the process."""
    path = Path(tempfile.gettempdir()) / f"evbus-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
