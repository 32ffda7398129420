"""The keys of a STOMP profile, and the sentences about wrong ones."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.engine.wire.base.tls import Tls
from evbus.engine.wire.stomp.profile import Profile


def profile(**data: Any) -> Profile:
    return msgspec.convert({"url": "stomp://host", **data}, type=Profile, strict=False)


def test_a_profile_needs_only_its_url() -> None:
    address = profile(url="stomp://guest:gu%40est@host").where()
    assert address == ((("host", 61613),), "guest", "gu@est", "/", None)
    assert profile().destination == "/queue/{routing_key}"


def test_the_url_names_vhost_port_and_tls() -> None:
    address = profile(url="stomp+ssl://host/my%2Fvhost").where()
    assert (address.hosts, address.vhost, address.tls) == ((("host", 61614),), "my/vhost", Tls())
    assert profile(url="stomp://host:1/%2F").where().vhost == "/"


def test_keys_come_before_the_url_and_tls_is_for_every_host() -> None:
    address = profile(
        url="stomp://a:b@host", hosts=["one", "[::1]:7"], login="c", password="d", vhost="v", tls=True
    ).where()
    assert address == ((("one", 61614), ("::1", 7)), "c", "d", "v", Tls())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"url": None}, "neither url nor hosts"),
        ({"url": "amqp://host"}, "write stomp://"),
        ({"url": "stomp://host:x"}, "no valid host and port"),
        ({"url": "stomp://host/?a=b"}, "percent-encode"),
        ({"hosts": ["a b/c"]}, "no 'host' or 'host:port'"),
        ({"destination": "orders"}, "'/queue/orders'"),
        ({"destination": "/queue/{key}"}, "another pair of braces"),
        ({"destination": "/queue/{routing_key}/{routing_key}"}, "more than one"),
        ({"password": "geheim\0"}, "password holds a NUL"),
        ({"headers": {"receipt": "1"}}, "set by evbus"),
        ({"headers": {"a": "\0"}}, "cannot carry"),
        ({"declare": {"a:b": "1"}}, "no name of a header"),
        ({"priority": 256}, "priority"),
        ({"expiry": 0}, "expiry"),
        ({"prefetch": 0}, "prefetch"),
        ({"window": 0}, "window"),
        ({"receipt_timeout": float("nan")}, "receipt_timeout"),
        ({"heartbeat": -1}, "heartbeat"),
        ({"reconnect": {"min": 2, "max": 1}}, "0 < min <= max"),
        ({"tls": {"key_file": "k"}}, "tls.cert_file"),
        ({"first_connect": "later"}, "first_connect"),
        ({"destinaton": "/queue/a"}, "destinaton"),
    ],
)
def test_a_bad_profile_is_refused_with_a_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=sentence) as caught:
        profile(**data)
    assert "geheim" not in str(caught.value)


def test_the_repr_of_a_profile_shows_no_secret() -> None:
    made = profile(url="stomp://user:hunter22@h", headers={"token": "hunter22"})
    assert "hunter22" not in repr(made)
    assert "hunter22" not in repr(made.where())
