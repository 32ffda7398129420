"""Where the broker of a profile is, without its secrets."""

from __future__ import annotations

from typing import Any

import pytest

from evbus.engine.handling.events.server import UNKNOWN, Host, servers
from evbus.engine.wire.amqp import profile as amqp_profile
from evbus.engine.wire.amqp1 import profile
from evbus.engine.wire.http import webhook
from evbus.engine.wire.memory import queues
from evbus.engine.wire.stomp import profile as stomp_profile

SECRET = "s3cr3t-w0rd"


def of(schema: Any, **data: Any) -> list[Host]:
    return servers("provider", schema(**data), data)


@pytest.mark.parametrize(
    ("schema", "data", "right"),
    [
        (
            amqp_profile.Profile,
            {"url": f"amqps://app:{SECRET}@rabbit.example/prod%2Fone"},
            ("rabbit.example:5671", "amqps", "0-9-1", "/prod%2Fone", "userPassword"),
        ),
        (amqp_profile.Profile, {}, ("localhost:5672", "amqp", "0-9-1", "", "userPassword")),
        (
            profile.Profile,
            {"url": "amqp://[::1]:5673/", "auth": "anonymous"},
            ("[::1]:5673", "amqp1", "1.0", "", ""),
        ),
        (
            stomp_profile.Profile,
            {"url": f"stomp+ssl://app:{SECRET}@mq.example", "vhost": "v"},
            ("mq.example:61614", "stomps", "1.2", "/v", "userPassword"),
        ),
        (stomp_profile.Profile, {"url": "stomp://mq.example"}, ("mq.example:61613", "stomp", "1.2", "", "")),
        (
            webhook.WebhookProfile,
            {
                "url": f"https://u:{SECRET}@hooks.example:8443/T0/{SECRET}?k={SECRET}",
                "secret": f"raw:{SECRET}",
            },
            ("hooks.example:8443", "https", "", "", ""),
        ),
    ],
)
def test_of_a_profile_host_and_protocol_are_told(schema: Any, data: dict[str, Any], right: Any) -> None:
    (server,) = of(schema, **data)
    assert server[:5] == right
    assert SECRET not in repr(server)


def test_every_host_of_a_cluster_is_one() -> None:
    found = of(amqp_profile.Profile, hosts=["a.example", "b.example:5000"], login="app", password=SECRET)
    assert [server.host for server in found] == ["a.example:5672", "b.example:5000"]


def test_a_client_certificate_is_a_login() -> None:
    tls = amqp_profile.Tls(cert_file="c.pem", key_file="k.pem")
    (server,) = of(amqp_profile.Profile, auth="external", tls=tls)
    assert server.login == "X509"


def test_what_is_in_the_process_has_no_host_of_its_own() -> None:
    assert servers("internal", queues.InternalProfile(), {}) == [
        Host("localhost", "internal", description="within the process")
    ]


@pytest.mark.parametrize(
    ("data", "host"),
    [
        ({"url": f"http://me:{SECRET}@other.example:81/{SECRET}"}, "other.example:81"),
        ({"url": "http://[broken"}, UNKNOWN),
        ({"url": 5}, UNKNOWN),
        ({"token": SECRET}, UNKNOWN),
    ],
)
def test_of_a_plugin_that_is_not_known_only_a_host_is_taken(data: dict[str, Any], host: str) -> None:
    assert servers("other", None, data) == [Host(host, "other")]
