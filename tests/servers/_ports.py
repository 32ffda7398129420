"""Free ports of the loopback interface."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below the ports that the system gives to outgoing connections (32768 and up): there, somebody's connection
# could take the port of a broker that is down for a moment, or a client that keeps trying connect to itself.
RANGE = range(20000, 32000)


def free_ports(count: int) -> list[int]:
    """Return that many different ports on which nothing listens now."""
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        if _is_free(port):
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
