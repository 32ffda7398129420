"""Profiles of AMQP 1.0: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.engine.wire.amqp1.profile import Profile


def profile(**data: Any) -> Profile:
    return msgspec.convert(data, type=Profile, strict=False)


@pytest.mark.parametrize(
    ("data", "hosts", "login", "vhost", "tls"),
    [
        ({"url": "amqp://u:p@h"}, (("h", 5672),), "u", "", False),
        ({"url": "amqps://u:p@h/"}, (("h", 5671),), "u", "", True),
        ({"url": "amqp://u:p@h:1/a%2Fb", "tls": True}, (("h", 1),), "u", "a/b", True),
        ({"url": "amqp://u:p@h/%2F", "login": "v"}, (("h", 5672),), "v", "/", False),
        (
            {"hosts": ["a", "b:7"], "login": "u", "vhost": "v"},
            (("a", 5672), ("b", 7)),
            "u",
            "v",
            False,
        ),
        ({"hosts": "[::1]:9", "auth": "anonymous"}, (("::1", 9),), "", "", False),
    ],
)
def test_where_to_connect(data: dict[str, Any], hosts: Any, login: str, vhost: str, tls: bool) -> None:
    where = profile(**data).where()
    assert (where.hosts, where.login, where.vhost, where.tls is not None) == (hosts, login, vhost, tls)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "neither url nor hosts"),
        ({"url": "http://u:hunter22@h"}, "begins with 'http'"),
        ({"url": "amqp://u:hunter22@h:x"}, "no valid host and port"),
        ({"url": "amqp://u:hunter22@h?x=1"}, "options are keys"),
        ({"url": "amqp://h"}, "auth: plain needs a login"),
        ({"url": "amqp://h", "auth": "external"}, "auth: external needs tls.cert_file"),
        ({"url": "amqp://u:p@h", "auth": "md5"}, "Invalid enum value 'md5'"),
        ({"url": "amqp://u:p@h", "address_model": "qpid"}, "Invalid enum value 'qpid'"),
        ({"url": "amqp://u:p@h", "address": "/queue/{key}"}, "another pair of braces"),
        ({"url": "amqp://u:p@h", "address": ""}, "is empty"),
        ({"url": "amqp://u:p@h", "address": "{routing_key}{routing_key}"}, "more than one"),
        ({"url": "amqp://u:p@h", "vhost": "a\0"}, "vhost holds a NUL"),
        ({"url": "amqp://u:p@h", "headers": {"": "x"}}, "headers holds ''"),
        ({"url": "amqp://u:p@h", "prefetch": 0}, "prefetch is a number from 1"),
        ({"url": "amqp://u:p@h", "window": 0}, "window is a number from 1"),
        ({"url": "amqp://u:p@h", "ttl": 0}, "ttl is a number of seconds above 0"),
        ({"url": "amqp://u:p@h", "priority": 256}, "priority is a number from 0"),
        ({"url": "amqp://u:p@h", "settle_timeout": 0}, "settle_timeout is a number"),
        ({"url": "amqp://u:p@h", "heartbeat": -1}, "heartbeat is a number"),
        ({"url": "amqp://u:p@h", "exchange": "x"}, "unknown field `exchange`"),
    ],
)
def test_what_is_wrong_is_told(data: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        profile(**data)
    assert said in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_its_repr_holds_no_secret() -> None:
    shown = repr(profile(url="amqp://u:hunter22@h", headers={"token": "hunter22"}))
    assert "hunter22" not in shown
    assert "h:5672" in shown
