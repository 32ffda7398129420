"""The names by which a server may be asked, against pages that lead a browser to it by a name of their own.

Such a page has its name resolved to this machine once it is loaded ("DNS rebinding"); what the browser sends
then has that name in the header ``Host``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["LOCAL_NAMES", "Hosts"]

#: What a server is called that only this machine reaches.
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
#: The most values that are remembered.
_MOST = 100


class Hosts:
    """What the header ``Host`` may say.

    :param names: without a port; ``*.example.org`` for all below, ``*`` for anything.
    """

    def __init__(self, names: Iterable[str]) -> None:
        lowered = [name.lower() for name in names]
        self._names = frozenset(_bare(name) for name in lowered)
        self._ends = tuple(name[1:] for name in lowered if name.startswith("*."))
        self._any = "*" in lowered
        self._known: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Hosts {', '.join(sorted(self._names))}>"

    def has(self, scope: Any) -> bool:
        """Return whether a request is for one of them."""
        if self._any:
            return True
        found = [value for name, value in scope["headers"] if name == b"host"]
        if len(found) != 1:
            return False
        value = found[0]
        if value in self._known:
            return True
        name = _bare(value.decode("latin-1").lower())
        if name not in self._names and not name.endswith(self._ends or ("\0",)):
            return False
        if len(self._known) < _MOST:
            self._known.add(value)
        return True


def _bare(host: str) -> str:
    """Return a host without its port, and without the dot and the brackets that it may have."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    if colon and ":" not in name and (port.isdigit() or not port):
        host = name
    return host.rstrip(".")
