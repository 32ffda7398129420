"""Where a broker is, and as whom to log in there."""

from __future__ import annotations

from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from evbus.engine.wire.base.tls import Tls

__all__ = ["Address", "Scheme", "host_and_port", "locate"]


class Address(NamedTuple):
    """Where and as whom to connect. ``hosts`` are tried in turn, all of them with ``tls``."""

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


class Scheme(NamedTuple):
    """How the URLs of a protocol begin, and its ports: each without and with TLS."""

    plain: str
    secure: str
    port: int
    secure_port: int


class _Profile(Protocol):
    """The keys of a profile that say where its broker is."""

    @property
    def url(self) -> str | None: ...
    @property
    def hosts(self) -> list[str] | str: ...
    @property
    def login(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def vhost(self) -> str | None: ...
    @property
    def tls(self) -> Tls | bool: ...


def locate(profile: _Profile, scheme: Scheme, vhost: str) -> Address:
    """Return where and as whom to connect.

    :param vhost: the one where the profile names none.
    :raises ValueError: the url or a host is none; does not hold the password.
    """
    parts = _split(profile.url, scheme)
    tls = profile.tls
    if parts.scheme == scheme.secure and tls is False:
        tls = True
    chosen = Tls() if tls is True else tls or None
    port = scheme.secure_port if chosen else scheme.port
    listed = [profile.hosts] if isinstance(profile.hosts, str) else profile.hosts
    if listed:
        hosts = tuple(host_and_port(text, port) for text in listed)
    elif parts.hostname:
        hosts = ((parts.hostname, parts.port or port),)
    else:
        example = f"{scheme.plain}://login:password@host:{scheme.port}/"
        raise ValueError(f"neither url nor hosts is given; write url: {example}")
    return Address(
        hosts,
        profile.login if profile.login is not None else unquote(parts.username or ""),
        profile.password if profile.password is not None else unquote(parts.password or ""),
        profile.vhost if profile.vhost is not None else unquote(parts.path[1:]) or vhost,
        chosen,
    )


def _split(url: str | None, scheme: Scheme) -> SplitResult:
    try:
        parts = urlsplit((url or f"{scheme.plain}:").strip())
        _ = parts.port  # a property that raises
    except ValueError:
        raise ValueError("url has no valid host and port; percent-encode @, / and : in a password") from None
    if parts.scheme not in (scheme.plain, scheme.secure):
        begins = parts.scheme[:20] or "no scheme"
        raise ValueError(f"url begins with {begins!r}; write {scheme.plain}:// or {scheme.secure}://")
    if parts.query or parts.fragment:
        raise ValueError("url holds a '?' or '#'; percent-encode them in a password; options are keys")
    return parts
