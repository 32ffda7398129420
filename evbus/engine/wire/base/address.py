"""Addresses of brokers, and the login there."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from evbus.engine.wire.base.tls import Tls

__all__ = ["Address", "host_and_port"]


class Address(NamedTuple):
    """The hosts and the login of a broker. ``hosts`` are tried in turn, all of them with ``tls``."""

    hosts: tuple[tuple[str, int], ...]
    login: str
    password: str
    vhost: str
    tls: Tls | None

    def __repr__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"<Address {hosts} vhost {self.vhost!r} {'with' if self.tls else 'without'} TLS>"


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """Return an entry of the key ``hosts``: ``host`` or ``host:port``.

    :raises ValueError: it is neither; does not show it, as somebody may have written a password there.
    """
    try:
        parts = urlsplit(f"//{text.strip()}")
        found = parts.hostname, parts.port or default
    except ValueError:
        found = None, 0
    if not found[0] or "@" in text or parts.path:
        raise ValueError("hosts holds an entry that is no 'host' or 'host:port'")
    return found[0], found[1]
