"""Where a profile leads to, for descriptions: hosts without any secret."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from evbus.engine.wire.base.profile import Address
from evbus.types import Host

__all__ = ["PROCESS", "UNKNOWN", "brokers", "host_of", "login_of"]

#: Stands for a host that a profile does not tell.
UNKNOWN = "unknown"
#: Stands in an address for the part that each process makes up for its own copy.
PROCESS = "{process}"


def brokers(where: Address, protocol: str, version: str, login: str, said: str = "") -> list[Host]:
    """Return the hosts of a broker."""
    pathname = f"/{quote(where.vhost, safe='')}" if where.vhost not in ("", "/") else ""
    return [
        Host(_written(host, port), protocol, version, pathname, login, said) for host, port in where.hosts
    ]


def login_of(auth: str, where: Address) -> str:
    """Return the kind of a login, as AsyncAPI calls it; ``""`` for none."""
    if auth == "external":
        return "X509"
    return "userPassword" if auth == "plain" and where.login else ""


def host_of(url: Any) -> str:
    """Return the host of a url, with its port; nothing else of it, as the rest may be secret."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        return _written(parts.hostname, parts.port) if parts.hostname else UNKNOWN
    except ValueError:
        return UNKNOWN


def _written(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name
