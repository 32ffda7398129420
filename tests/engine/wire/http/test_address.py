"""The rules of evbus.engine.wire.http.address: every class of address that a webhook must not reach."""

from __future__ import annotations

import pytest

from evbus.engine.wire.http.address import AddressPolicy, literal
from evbus.errors import DestinationForbidden
from tests.evbus.rig import failure

FORBIDDEN = [
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("0.0.0.0", "unspecified"),  # noqa: S104 - nothing is bound here
    ("0.1.2.3", "unspecified"),
    ("10.1.2.3", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.168.1.1", "private"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("169.254.1.1", "link-local"),
    ("169.254.169.254", "cloud metadata"),
    ("169.254.170.2", "cloud metadata"),
    ("100.100.100.200", "cloud metadata"),
    ("168.63.129.16", "cloud metadata"),
    ("192.0.0.1", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "reserved"),
    ("198.18.0.1", "benchmarking"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::127.0.0.1", "reserved"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:169.254.169.254", "cloud metadata"),
    ("::ffff:10.0.0.1", "private"),
    ("::ffff:0:127.0.0.1", "reserved"),
    ("64:ff9b::127.0.0.1", "loopback"),
    ("64:ff9b::a9fe:a9fe", "cloud metadata"),
    ("64:ff9b:1::7f00:1", "private"),
    ("100::1", "reserved"),
    ("2001::1", "reserved"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("2002:a9fe:a9fe::1", "6to4"),
    ("2a00::5efe:127.0.0.1", "loopback"),
    ("2a00::200:5efe:10.0.0.1", "private"),
    ("3fff::1", "documentation"),
    ("5f00::1", "reserved"),
    ("fc00::1", "private"),
    ("fd12:3456::1", "private"),
    ("fd00:ec2::254", "cloud metadata"),
    ("fd20:ce::254", "cloud metadata"),
    ("fe80::1", "link-local"),
    ("fec0::1", "private"),
    ("ff02::1", "multicast"),
]

ODD = [
    "2130706433",
    "0x7f000001",
    "0x7f000001.",
    "0x7f.1",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.1",
    "127.0.0.01",
    "127.0.0.1.",
    "0",
    "1.2.3.4.5",
    "999.1.1.1",
    "example.0x7f",
    "fe80::1%eth0",
    "::ffff:0x7f.1",
]


@pytest.mark.parametrize(("address", "kind"), FORBIDDEN)
def test_a_special_address_is_forbidden(address: str, kind: str) -> None:
    assert AddressPolicy().refusal(address) == kind
    with pytest.raises(DestinationForbidden, match=kind):
        AddressPolicy().check_host(address)


@pytest.mark.parametrize(("address", "kind"), FORBIDDEN)
def test_the_network_of_an_address_permits_it(address: str, kind: str) -> None:
    assert AddressPolicy([address]).refusal(address) == ""
    AddressPolicy([address]).check_host(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2a00:1450::1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_a_public_address_is_permitted(address: str) -> None:
    assert AddressPolicy().refusal(address) == ""
    AddressPolicy().check_host(address)


@pytest.mark.parametrize("host", ODD)
def test_an_odd_notation_is_forbidden_even_where_everything_is_allowed(host: str) -> None:
    with pytest.raises(DestinationForbidden, match="unusual notation"):
        AddressPolicy(["0.0.0.0/0", "::/0"]).check_host(host)


@pytest.mark.parametrize("host", ["", "a b", "%31%32%37.0.0.x", "a..b", "x" * 64 + ".example", "a/b", "*.x"])
def test_what_is_no_host_name_is_forbidden(host: str) -> None:
    with pytest.raises(DestinationForbidden, match="no host name"):
        literal(host)


@pytest.mark.parametrize("host", ["example.org", "example.org.", "a_b.example", "x1", "bücher.example", "1a"])
def test_a_name_is_no_literal(host: str) -> None:
    assert literal(host) is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "app.localhost"])
def test_localhost_is_known_without_asking(host: str) -> None:
    with pytest.raises(DestinationForbidden, match="loopback"):
        AddressPolicy(["10.0.0.0/8"]).check_host(host)
    AddressPolicy([host]).check_host(host)
    AddressPolicy(["127.0.0.0/8"]).check_host(host)
    AddressPolicy(["::1"]).check_host(host)


@pytest.mark.parametrize(
    ("said", "address", "name"),
    [
        ("", "10.0.0.1", "hooks.internal."),
        ("", "127.0.0.1", "hooks.internal"),
        ("private", "10.0.0.1", "other.internal"),
        ("private", "10.0.0.1", ""),
    ],
)
def test_an_allowed_name_permits_private_addresses_for_itself_only(
    said: str, address: str, name: str
) -> None:
    assert AddressPolicy(["Hooks.Internal"]).refusal(address, name) == said


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.1", "224.0.0.1"])
def test_an_allowed_name_never_permits_metadata_or_link_local(address: str) -> None:
    assert AddressPolicy(["hooks.internal"]).refusal(address, "hooks.internal") != ""


def test_a_network_permits_what_only_wraps_its_addresses() -> None:
    assert AddressPolicy(["127.0.0.0/8"]).refusal("::ffff:127.0.0.1") == ""
    assert AddressPolicy(["10.0.0.1/8"]).refusal("10.200.0.1") == ""


@pytest.mark.parametrize("entry", ["", "10.0.0.0/40", "http://host", "host:80", "*.internal", "1.2.3", "a b"])
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a network") as caught:
        AddressPolicy([entry])
    assert repr(entry) in str(caught.value)


def test_the_error_says_what_would_permit_the_destination() -> None:
    assert failure(DestinationForbidden, AddressPolicy().check, "10.0.0.1", "hooks.internal") == (
        "hooks.internal (10.0.0.1) is a private address, which evbus does not send webhooks to; "
        "if it is meant, list 10.0.0.1 in the profile's 'allow'"
    )
