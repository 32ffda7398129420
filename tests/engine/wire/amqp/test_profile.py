"""Profiles of AMQP: what they mean, and the sentence for each that means nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.wire.amqp.profile import PASSING, Profile, QueueDeclaration
from evbus.engine.wire.base.tls import Tls

HEADERS = {"exchange": {"name": "e", "type": "headers"}}
LOCAL = {"exchange": {"name": "e", "type": "x-local-random"}}


def profile(**data: Any) -> Profile:
    return msgspec.convert(data, type=Profile, strict=False)


def complaint(**data: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        profile(**data)
    said = str(caught.value)
    assert "\n" not in said
    assert "hunter22" not in said
    return said


# Where to connect to


@pytest.mark.parametrize(
    ("data", "hosts", "login", "password", "vhost", "encrypted"),
    [
        ({}, [("localhost", 5672)], "guest", "guest", "/", False),
        ({"tls": True}, [("localhost", 5671)], "guest", "guest", "/", True),
        ({"url": "amqp://host"}, [("host", 5672)], "guest", "guest", "/", False),
        ({"url": "amqp://host/"}, [("host", 5672)], "guest", "guest", "/", False),
        ({"url": "amqp://host/%2F"}, [("host", 5672)], "guest", "guest", "/", False),
        ({"url": "amqps://host/shop"}, [("host", 5671)], "guest", "guest", "shop", True),
        ({"url": "amqp://host//shop"}, [("host", 5672)], "guest", "guest", "/shop", False),
        ({"url": "amqp://a:b%40@[::1]:99/%2Fx%25"}, [("::1", 99)], "a", "b@", "/x%", False),
        (
            {"url": "amqp://a:b@h/v", "login": "c", "password": "d", "vhost": "w"},
            [("h", 5672)],
            "c",
            "d",
            "w",
            False,
        ),
        ({"url": "amqp://a:b@h/v", "hosts": ["x", "y:1"]}, [("x", 5672), ("y", 1)], "a", "b", "v", False),
        ({"hosts": "x:1"}, [("x", 1)], "guest", "guest", "/", False),
        (
            {"hosts": ["[::1]", "[::1]:2"], "tls": {}},
            [("::1", 5671), ("::1", 2)],
            "guest",
            "guest",
            "/",
            True,
        ),
        (
            {"connection": {"host": "h", "port": 9, "login": "a", "password": "b", "virtualhost": "v"}},
            [("h", 9)],
            "a",
            "b",
            "v",
            False,
        ),
        ({"connection": {"url": "amqps://a:b@h/v", "timeout": 3}}, [("h", 5671)], "a", "b", "v", True),
        (
            {"connection": {"host": "h", "port": None, "ssl": True}},
            [("h", 5671)],
            "guest",
            "guest",
            "/",
            True,
        ),
        ({"connection": {"host": "h", "port": "9"}}, [("h", 9)], "guest", "guest", "/", False),
    ],
)
def test_where_to_connect_to(
    data: Any, hosts: Any, login: str, password: str, vhost: str, encrypted: bool
) -> None:
    found = profile(**data).where()
    assert list(found.hosts) == hosts
    assert (found.login, found.password, found.vhost) == (login, password, vhost)
    assert (found.tls is not None) is encrypted


def test_options_for_tls_of_aio_pika_mean_ours() -> None:
    options = {"cafile": "ca", "certfile": "cert", "keyfile": "key", "no_verify_ssl": True}
    found = profile(connection={"host": "h", "ssl": True, "ssl_options": options}).where()
    assert found.tls == Tls(ca_file="ca", cert_file="cert", key_file="key", insecure=True)


def test_an_address_shows_no_password() -> None:
    made = profile(url="amqps://a:hunter22@h/shop")
    assert repr(made.where()) == "<Address h:5671 vhost 'shop' with TLS>"
    assert repr(made) == "<profile of <Address h:5671 vhost 'shop' with TLS>>"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"url": "http://a:hunter22@h"}, "the url begins with 'http'; amqp:// or amqps:// (TLS) is right"),
        ({"url": "localhost"}, "the url begins with ''; amqp:// or amqps:// (TLS) is right"),
        ({"url": "amqp://h:port"}, "the url is no URL; amqp://login:password@host:5672/vhost is one"),
        ({"url": "amqp://a:hunter22[@h"}, "the url is no URL"),
        (
            {"url": "amqp://h?heartbeat=3"},
            "has a part after '?' or '#'; its settings are keys of the profile",
        ),
        ({"hosts": "a b:c"}, "hosts holds an entry that is no 'host' or 'host:port'"),
        ({"hosts": ["amqp://h"]}, "hosts holds an entry that is no 'host' or 'host:port'"),
        ({"hosts": [""]}, "hosts holds an entry that is no 'host' or 'host:port'"),
        ({"connection": {"hots": "h"}}, "connection: there is no key 'hots'; known: url, host, port"),
        ({"connection": {"port": 65536}}, "connection.port: 65536 is no port"),
        ({"connection": {"port": "many"}}, "connection.port: 'many' is no port"),
        (
            {"connection": {"ssl_options": {"ca": "x"}}},
            "connection.ssl_options: there is no key 'ca'; known: cafile",
        ),
        ({"auth": "external"}, "auth: external needs tls.cert_file, the certificate that says who it is"),
        ({"auth": "external", "tls": True}, "auth: external needs tls.cert_file"),
        ({"auth": "kerberos"}, "Invalid enum value 'kerberos'"),
        ({"tls": {"ca": "x"}}, "unknown field `ca`"),
        ({"adress": "x"}, "unknown field `adress`"),
        ({"reconnect": {"min": 2, "max": 1}}, "min and max are seconds with 0 < min <= max"),
        ({"reconnect": {"min": 0}}, "min and max are seconds with 0 < min <= max"),
        ({"first_connect": "perhaps"}, "Invalid enum value 'perhaps'"),
        ({"priority": 256}, "priority is a number from 0 to 255"),
        ({"expiry": -1}, "expiry is a number of seconds from 0 to 315360000"),
        ({"prefetch": 0}, "prefetch is a number from 1 to 65535"),
        ({"connect_timeout": 0}, "connect_timeout is a number of seconds above 0"),
        ({"confirm_timeout": float("inf")}, "confirm_timeout is a number of seconds above 0"),
        ({"confirm_timeout": float("nan")}, "confirm_timeout is a number of seconds above 0"),
        ({"timeout": 0}, "timeout is a number of seconds above 0"),
        ({"heartbeat": -1}, "heartbeat is a number of seconds from 0 to 65535"),
        ({"offset": "middle"}, "offset is first, last, next or a number"),
        (
            {"queue": "q", **HEADERS},
            "give them, such as 'queue: {name: q, bind: [{x-match: all, tenant: shop}]}'",
        ),
        ({"queue": {"name": "q", "bind": [{"a": "b"}, "key"]}, **HEADERS}, "an exchange of type headers"),
        (
            {"queue": {"name": "q", "bind": {"x-match": "some"}}, **HEADERS},
            "queue.bind: x-match is one of all, any, all-with-x, any-with-x",
        ),
        (
            {"queue": {"name": "q", "bind": {"a": "b"}}, "exchange": {"name": "e"}},
            "queue.bind: an exchange of type topic looks at no headers; give keys, or an exchange",
        ),
        ({"queue": {"name": "q", "bind": "key"}, **LOCAL}, "x-local-random takes no other key than ''"),
    ],
)
def test_what_means_nothing_is_told(data: Any, reason: str) -> None:
    assert reason in complaint(**data)


# Queues and exchanges


def test_the_arguments_of_a_queue() -> None:
    assert QueueDeclaration(name="q").table() == {"x-queue-type": "classic"}
    assert QueueDeclaration(name="q", arguments={"x-queue-type": "quorum"}).table() == {
        "x-queue-type": "quorum"
    }
    queue = QueueDeclaration(
        name="q",
        type="quorum",
        dead_letter_exchange="",
        dead_letter_routing_key="dead",
        arguments={"x-max-length": 5},
    )
    assert queue.table() == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
        "x-max-length": 5,
    }
    assert queue.arguments == {"x-max-length": 5}


@pytest.mark.parametrize(
    ("data", "server", "limit"),
    [
        ({"type": "quorum"}, (), None),
        ({"type": "quorum"}, (3, 10, 8), None),
        ({"type": "quorum"}, (3, 13), None),
        ({"type": "quorum"}, (4, 0, 5), -1),
        ({"type": "quorum"}, (4, 3, 6), -1),
        ({"arguments": {"x-queue-type": "quorum"}}, (4, 0), -1),
        ({"type": "quorum", "arguments": {"x-delivery-limit": 5}}, (4, 0), 5),
        ({"type": "quorum", "dead_letter_exchange": ""}, (4, 0), None),
        ({"type": "quorum", "arguments": {"x-dead-letter-exchange": "dead"}}, (4, 0), None),
        ({"type": "classic"}, (4, 0), None),
        ({"type": "stream"}, (4, 0), None),
    ],
)
def test_only_a_quorum_queue_of_version_4_that_says_nothing_gets_a_limit(
    data: Any, server: tuple[int, ...], limit: int | None
) -> None:
    assert QueueDeclaration(name="q", **data).table(server).get("x-delivery-limit") == limit


def test_a_queue_that_is_not_to_be_kept_outlives_its_consumers_for_a_while() -> None:
    arguments = {"x-delivery-limit": 5, "x-quorum-initial-group-size": 3, "x-max-length": 9}
    made = QueueDeclaration(
        name="q", type="quorum", dead_letter_exchange="dead", arguments=arguments
    ).passing("copy")
    assert (made.name, made.durable, made.auto_delete) == ("copy", True, False)
    assert made.table((4, 0)) == {
        "x-queue-type": "classic",
        "x-expires": PASSING * 1000,
        "x-max-length": 9,
        "x-dead-letter-exchange": "dead",
    }
    stream = QueueDeclaration(type="stream", arguments={"x-max-age": "7D", "x-stream-filter-size-bytes": 32})
    assert stream.passing("copy").table() == {"x-queue-type": "classic", "x-expires": PASSING * 1000}
    own = QueueDeclaration(arguments={"x-expires": 5000, "x-queue-type": "quorum"}).passing("copy")
    assert own.table() == {"x-queue-type": "classic", "x-expires": 5000}


@pytest.mark.parametrize(
    ("data", "bindings"),
    [
        ({"queue": "q"}, []),
        ({"queue": "q", "exchange": "e"}, ["q"]),
        ({"queue": "q", "exchange": "e", "routing_key": "k"}, ["k"]),
        ({"queue": "q", "exchange": "e", "routing_key": "x.{routing_key}"}, ["q"]),
        ({"queue": {"name": "q", "bind": "b"}, "exchange": "e", "routing_key": "k"}, ["b"]),
        ({"queue": {"name": "q", "bind": ["b", "c"]}, "exchange": {"name": "e"}}, ["b", "c"]),
        ({"queue": {"name": "q", "bind": []}, "exchange": "e"}, []),
        ({"queue": {"name": "q", "bind": {"tenant": "a"}}, **HEADERS}, [{"tenant": "a"}]),
        ({"queue": {"name": "q", "bind": [{"tenant": "a"}, {}]}, **HEADERS}, [{"tenant": "a"}, {}]),
        ({"queue": {"name": "q", "bind": [{"tenant": "a"}, "k"]}, "exchange": "e"}, [{"tenant": "a"}, "k"]),
        ({"queue": "q", **LOCAL}, [""]),
    ],
)
def test_what_a_queue_is_bound_by(data: Any, bindings: list[Any]) -> None:
    settings = profile(**data)
    assert settings.bindings(settings.queue_settings() or QueueDeclaration()) == bindings


def test_a_queue_without_a_name_need_not_be_bound() -> None:
    profile(queue={"type": "quorum"}, **HEADERS)


def test_the_default_exchange_has_three_names() -> None:
    for data in ({}, {"exchange": ""}, {"exchange": "default"}):
        assert profile(**data).exchange_name() == ""
    assert profile(exchange="events").exchange_name() == "events"
    assert profile(exchange={"name": "events", "type": "fanout"}).exchange_name() == "events"


def test_a_queue_is_named_or_described() -> None:
    assert profile().queue_settings() is None
    assert profile(queue="q").queue_settings() == QueueDeclaration(name="q")
    assert profile(queue={"name": "q", "type": "quorum"}).queue_settings() == QueueDeclaration(
        name="q", type="quorum"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"exchange": {"name": ""}}, "the default exchange cannot be declared; give the exchange a name"),
        (
            {"exchange": {"name": "e", "type": "topik"}},
            "type is direct, fanout, topic, headers or x-..., not 'topik'",
        ),
        ({"exchange": {"type": "topic"}}, "missing required field `name`"),
        ({"exchange": {"name": "e", "kind": "topic"}}, "unknown field `kind`"),
        ({"queue": {"name": "q", "type": "lazy"}}, "Invalid enum value 'lazy'"),
        (
            {"queue": {"name": "q", "type": "stream", "durable": False}},
            "a queue of type stream is always durable; leave out durable: false",
        ),
        (
            {"queue": {"name": "q", "dead_letter_routing_key": "d"}},
            "dead_letter_routing_key needs dead_letter_exchange; '' is the default exchange",
        ),
        (
            {"queue": {"name": "q", "bind": "k"}},
            "queue.bind needs an exchange: every queue is bound to the default one by its name",
        ),
        (
            {"queue": "q", "routing_key": "other"},
            "leads to the queue 'q' by its own name only, and never by the routing_key 'other'",
        ),
    ],
)
def test_queues_and_exchanges_that_do_not_belong_together_are_told(data: Any, reason: str) -> None:
    assert reason in complaint(**data)


@pytest.mark.parametrize(
    "data",
    [
        {"queue": "q", "routing_key": "q"},
        {"queue": "q", "routing_key": "{routing_key}"},
        {"queue": "q", "routing_key": "other", "exchange": "events"},
        {"queue": {"bind": ["a", "b"]}, "exchange": "events"},
        {"queue": {"type": "quorum"}, "routing_key": "q"},
        {"exchange": {"name": "e", "type": "x-delayed-message"}},
    ],
)
def test_those_that_do_are_taken(data: Any) -> None:
    assert profile(**data)


URL_PARTS = st.text("abc@:/[]?#% ä\\", max_size=6)


@given(URL_PARTS, URL_PARTS, URL_PARTS)
def test_any_url_is_taken_or_told_without_its_password(login: str, host: str, vhost: str) -> None:
    said = ""
    try:
        address = profile(url=f"amqp://{login}:hunter22@{host}/{vhost}").where()
    except msgspec.ValidationError as exc:
        said = str(exc)
    else:
        assert all(name and 0 < port < 65536 for name, port in address.hosts)
        assert "hunter22" not in repr(address) or address.password != "hunter22"
    assert "hunter22" not in said
