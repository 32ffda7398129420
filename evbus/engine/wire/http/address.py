"""Addresses that a webhook may go to: the rules against server-side request forgery.

The tables follow the IANA special-purpose address registries (RFC 6890 and its updates). They are
written out because the properties of ``ipaddress`` differ between releases of Python.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from evbus.errors import DestinationForbidden

__all__ = ["AddressPolicy", "literal"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("3fff::/20", "documentation"),
    ("64:ff9b:1::/48", "private"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_TABLE: tuple[tuple[_Network, str], ...] = tuple((ipaddress.ip_network(net), kind) for net, kind in _SPECIAL)

# AWS (both families, and its container credentials), Google, Alibaba, Oracle, and Azure's wire server,
# whose address looks public.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

#: What a host name in ``allow`` permits; anything else needs its network, so that an allowed name whose
#: DNS answer was tampered with cannot lead to the metadata service.
_LOCAL = frozenset({"private", "loopback", "carrier-grade NAT"})

_ENDS_IN_A_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.*$", re.IGNORECASE)
_HOST_NAME = re.compile(r"(?=.{1,254}$)(?:[^\s/:@*?#\[\]%\\,.]{1,63}\.)*[^\s/:@*?#\[\]%\\,.]{1,63}\.?")


def literal(host: str) -> _Address | None:
    """Return the address that a URL's host is, or None when it is a name.

    :raises DestinationForbidden: a number that only some resolvers take for an address (``2130706433``,
        ``0x7f.1``, ``0177.0.0.1``, ``127.1``), an address with a zone, or no host name at all.
    """
    if ":" in host or _ENDS_IN_A_NUMBER.search(host):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if address is None or getattr(address, "scope_id", None):
            raise DestinationForbidden(
                f"the host {host!r} is an address in an unusual notation; "
                "write four plain decimal numbers (192.0.2.1), an IPv6 address without zone, or a name"
            )
        return address
    if not _HOST_NAME.fullmatch(host):
        raise DestinationForbidden(f"the host {host[:100]!r} is no host name")
    return None


class AddressPolicy:
    """Says of an address whether a webhook may go there.

    Public addresses are permitted; all others are forbidden, unless ``allow`` holds a network they
    are in. A host name in ``allow`` permits the private and loopback addresses that it resolves to.

    :raises ValueError: an entry of ``allow`` is neither a network nor a host name.
    """

    __slots__ = ("_names", "_networks")

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._networks: list[_Network] = []
        self._names: set[str] = set()
        for entry in allow:
            self._add(entry)

    def _add(self, entry: str) -> None:
        name = entry.strip().lower()
        if not _HOST_NAME.fullmatch(name) or _ENDS_IN_A_NUMBER.search(name):
            try:
                self._networks.append(ipaddress.ip_network(name, strict=False))
            except ValueError:
                raise ValueError(
                    f"allow holds {entry!r}, which is neither a network such as 10.0.0.0/8 "
                    "nor a host name such as hooks.internal (without scheme, port or wildcard)"
                ) from None
        else:
            self._names.add(name.rstrip("."))

    def refusal(self, address: str, host: str = "") -> str:
        """Return the kind of a forbidden address ("loopback", ...), or ``""`` when it is permitted.

        :param host: the host name that led to the address, when one did.
        """
        written = ipaddress.ip_address(address)
        meant = _unwrapped(written)
        kind = _kind(meant)
        if not kind or any(written in net or meant in net for net in self._networks):
            return ""
        return "" if kind in _LOCAL and self._names_host(host) else kind

    def check_host(self, host: str) -> None:
        """Check what can be known of a URL's host without asking a name server.

        :raises DestinationForbidden: a forbidden address, an odd notation of one, or ``localhost``.
        """
        address = literal(host)
        if address is not None:
            self.check(str(address), host)
        elif _is_localhost(host) and all(self.refusal(known, host) for known in ("127.0.0.1", "::1")):
            # Which of the two it is shows when it is resolved; if neither is permitted, it is known now.
            raise forbidden(host, "", "loopback")

    def check(self, address: str, host: str) -> None:
        """Raise DestinationForbidden when ``address``, which ``host`` led to, is not permitted."""
        kind = self.refusal(address, host)
        if kind:
            raise forbidden(host, address, kind)

    def _names_host(self, host: str) -> bool:
        return host.lower().rstrip(".") in self._names


def forbidden(host: str, address: str, kind: str) -> DestinationForbidden:
    """Return the error that names the host, its address and what would permit it."""
    at = f" ({address})" if address not in ("", host) else ""
    return DestinationForbidden(
        f"{host}{at} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} address, which evbus does not send "
        f"webhooks to; if it is meant, list {address or host} in the profile's 'allow'"
    )


def _is_localhost(host: str) -> bool:
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def _unwrapped(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address is only another writing of, else the address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return _low_ipv4(address)
    return address


def _low_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _kind(address: _Address) -> str:
    if address in _METADATA:
        return "cloud metadata"
    for network, kind in _TABLE:
        if address in network:
            return kind
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _GLOBAL_UNICAST:
            return "reserved"
        # ISATAP (RFC 5214 section 6.1) carries an IPv4 address in the last 32 bits.
        if (int(address) >> 32) & 0xFDFF_FFFF == 0x0000_5EFE:
            return _kind(_low_ipv4(address))
    return ""
