"""The parts of a webhook without network: profile, signature, headers, and what an answer means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings import http
from standardwebhooks import Webhook

from evbus.engine.wire.http.webhook import (
    Request,
    WebhookProfile,
    key_of,
    outcome,
    retry_after,
    signature,
    webhook_id,
)
from evbus.errors import DeliveryError, DestinationForbidden, Rejected, Unavailable

URL = "https://example.org/hook"
KEY = b"0123456789abcdef01234567"
NOW = 1_700_000_000.0


def profile(**data: Any) -> WebhookProfile:
    return msgspec.convert({"url": URL, **data}, type=WebhookProfile, strict=False)


def request(headers: dict[str, str] | None = None, keys: tuple[bytes, ...] = ()) -> Request:
    return Request(headers or {}, keys, clock=lambda: NOW)


def test_a_profile_needs_only_its_url() -> None:
    made = profile()
    assert (made.timeout, made.connect_timeout, made.connections) == (10.0, 5.0, 100)
    assert (made.insecure, made.allow, made.headers, made.keys()) == (False, [], {}, ())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"url": " "}, "url is empty"),
        ({"client_key": "k.pem"}, "client_key needs client_cert"),
        ({"insecure": True, "ca_file": "ca.pem"}, "exclude each other"),
        ({"secret": ""}, "a secret is empty"),
        ({"secret": "whsec_"}, "a secret is empty"),
        ({"secret": "whsec_geheim!"}, "no base64"),
        ({"secret": "raw:"}, "a secret is empty"),
        ({"secret": []}, "empty list"),
        ({"secret": ["aaaa", "bbbb", "cccc"]}, "more than two keys"),
        ({"allow": ["10.0.0.0/99"]}, "10.0.0.0/99"),
        ({"headers": {"a b": "c"}}, "a name holds letters"),
        ({"headers": {"a": "c\r\nd: e"}}, "control character"),
        ({"headers": {"Content-Length": "3"}}, "set by evbus"),
        ({"headers": {"webhook-id": "3"}}, "set by evbus"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"connections": 0}, "connections"),
        ({"urll": "x"}, "urll"),
    ],
)
def test_a_bad_profile_is_refused_with_a_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=sentence) as caught:
        profile(**data)
    assert "geheim" not in str(caught.value)


def test_the_repr_of_a_profile_shows_no_secret() -> None:
    made = profile(url="https://u:hunter22@h/T0KEN", secret="hunter22", headers={"X-Key": "hunter22"})
    assert "hunter22" not in repr(made)
    assert "T0KEN" not in repr(made)


@pytest.mark.parametrize("text", [base64.b64encode(KEY).decode(), "+/+/", "c2VjcmV0"])
def test_a_secret_is_the_key_that_the_library_of_standard_webhooks_takes(text: str) -> None:
    for secret in (text, f"whsec_{text}", f" {text}\n"):
        made = request(keys=profile(secret=secret).keys()).headers("k", b'{"a": 1}', {"ce-id": "e-1"})
        made["webhook-timestamp"] = str(int(time.time()))
        made["webhook-signature"] = signature(
            key_of(secret), "e-1", int(made["webhook-timestamp"]), b'{"a": 1}'
        )
        assert Webhook(secret.strip()).verify('{"a": 1}', made) == {"a": 1}


def test_a_text_is_a_secret_where_that_is_said() -> None:
    assert profile(secret=["raw:one", "raw: two-2"]).keys() == (b"one", b" two-2")


@pytest.mark.parametrize("secret", ["s3cret!", "whsec_-_-_", "YQ", "whsec_YQ", "my secret", "größe"])
def test_a_secret_that_is_no_base64_is_refused_with_the_cure(secret: str) -> None:
    with pytest.raises(ValueError, match="write raw: in front of it") as caught:
        key_of(secret)
    assert secret not in str(caught.value)


def test_the_signature_is_that_of_the_published_example() -> None:
    # The test vector that the reference libraries of the specification share.
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_key_signs_id_timestamp_and_body() -> None:
    made = request(keys=(b"new", b"old")).headers("k", b"body", {"ce-id": "e-1"})
    assert (made["webhook-id"], made["webhook-timestamp"]) == ("e-1", "1700000000")
    expected = [
        "v1," + base64.b64encode(hmac.new(key, b"e-1.1700000000.body", hashlib.sha256).digest()).decode()
        for key in (b"new", b"old")
    ]
    assert made["webhook-signature"].split(" ") == expected


def test_without_a_secret_there_is_an_id_but_no_signature() -> None:
    made = request().headers("", b"", {})
    assert made["webhook-id"].startswith("msg_")
    assert "webhook-signature" not in made
    assert "evbus-routing-key" not in made


def test_an_event_without_ce_id_gets_a_fresh_id_each_time() -> None:
    assert webhook_id({}) != webhook_id({})


@pytest.mark.parametrize(
    "kind", ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=utf-8"]
)
def test_a_cloudevent_in_json_has_its_own_id_at_each_attempt(kind: str) -> None:
    body = b'{"specversion": "1.0", "id": "A-7", "source": "/shop", "type": "paid", "data": {"id": "B-1"}}'
    made = [request().headers("", body, {"content-type": kind})["webhook-id"] for _ in range(2)]
    assert made == ["A-7", "A-7"]
    odd = body.replace(b"A-7", b"a.b")
    digest = "sha256_" + hashlib.sha256(b"a.b").hexdigest()
    assert request().headers("", odd, {"content-type": kind})["webhook-id"] == digest
    # What stamp has set counts, and the body of any other event does not.
    assert request().headers("", body, {"content-type": kind, "ce-id": "9"})["webhook-id"] == "9"
    assert request().headers("", body, {"content-type": "application/json"})["webhook-id"].startswith("msg_")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 7}', b'{"id": ""}', b"\xff", b'{"id": "7"'])
def test_a_cloudevent_without_an_id_has_a_fresh_one(body: bytes) -> None:
    made = request().headers("", body, {"content-type": "application/cloudevents+json"})
    assert made["webhook-id"].startswith("msg_")


@pytest.mark.parametrize("value", ["a.b", "with space", "ünicode", "x" * 300])
def test_an_id_that_cannot_be_signed_safely_is_replaced_by_the_same_digest(value: str) -> None:
    made = webhook_id({"CE-ID": value})
    assert made == webhook_id({"ce-id": value}) == "sha256_" + hashlib.sha256(value.encode()).hexdigest()


def test_event_headers_travel_and_hop_by_hop_ones_do_not() -> None:
    event = {
        "content-type": "application/json",
        "ce-type": "order",
        "X-Umlaut": "grüße",
        "Host": "evil",
        "content-length": "1",
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "Connection": "close",
        "keep-alive": "1",
        "TE": "trailers",
        "Trailer": "x",
        "Transfer-Encoding": "chunked",
        "Upgrade": "h2c",
        "Expect": "100-continue",
        "Proxy-Authorization": "x",
        "webhook-signature": "v1,forged",
        "evbus-routing-key": "forged",
    }
    made = request().headers("orders.new", b"{}", event)
    assert made.pop("webhook-id")
    assert made == {
        "User-Agent": "evbus",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "ce-type": "order",
        "X-Umlaut": "grüße",
        "evbus-routing-key": "orders.new",
        "webhook-timestamp": "1700000000",
    }


def test_headers_of_the_profile_win_whatever_their_case() -> None:
    fixed = {"X-Tenant": "ours", "authorization": "Bearer ours", "user-agent": "shop"}
    made = request(fixed).headers("", b"", {"x-tenant": "theirs", "content-type": "a/b"})
    assert {name: value for name, value in made.items() if "theirs" in value} == {}
    assert (made["X-Tenant"], made["user-agent"]) == ("ours", "shop")
    assert "User-Agent" not in made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\x00"),
        ("x", "\x1b[0m"),
        ("x", "\ud800"),
        ("x\r\ny", "a"),
        ("x y", "a"),
        ("x:", "a"),
        ("", "a"),
        ("ümlaut", "a"),
        ("ce-a b", "a"),
        ("ce-a", "\ud800"),
    ],
)
def test_a_header_that_http_cannot_carry_is_left_out_and_told(name: str, value: str) -> None:
    told: list[tuple[str, str]] = []
    made = Request({}, (), lambda *what: told.append(what)).headers("", b"", {name: value, "good": "1"})
    assert name not in made
    assert made["good"] == "1"
    ((left_out, why),) = told
    assert left_out == name
    assert not why.count(value) or len(value) == 1


def test_a_routing_key_that_is_no_unicode_is_left_out() -> None:
    told: list[tuple[str, str]] = []
    made = Request({}, (), lambda *what: told.append(what)).headers("\ud800", b"", {})
    assert "evbus-routing-key" not in made
    assert [name for name, _ in told] == ["evbus-routing-key"]


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("order.placed", "order.placed"),
        ("100%25 off", "100%2525%20off"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ('a"b', "a%22b"),
        ("\U0001f600", "%F0%9F%98%80"),
        ("a\r\nb: c", "a%0D%0Ab:%20c"),
        ("!#$&'()*+,/:;=?@[]^_`{|}~-.<>\\", "!#$&'()*+,/:;=?@[]^_`{|}~-.<>\\"),
    ],
)
def test_attributes_of_cloudevents_and_the_routing_key_are_percent_encoded(value: str, sent: str) -> None:
    event = {"ce-id": "1", "ce-source": "/x", "ce-specversion": "1.0", "ce-type": value, "x": "grüße"}
    made = request().headers(value, b"{}", event)
    assert (made["ce-type"], made["evbus-routing-key"], made["x"]) == (sent, sent, "grüße")
    read = http.from_http_event(http.HTTPMessage(headers=made, body=b"{}"))
    assert read.get_type() == value


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_"])
def test_attributes_that_came_by_amqp_are_those_of_http(prefix: Any) -> None:
    made = request().headers("", b"", {f"{prefix}id": "7", f"{prefix}type": "a b"})
    assert (made["ce-id"], made["ce-type"], made["webhook-id"]) == ("7", "a%20b", "7")
    assert not any(name.lower().startswith("cloudevents") for name in made)


def test_beside_a_cloudevent_in_json_there_are_no_attributes() -> None:
    event = {"content-type": "application/cloudevents+json; charset=utf-8", "ce-id": "7", "ce-type": "a"}
    made = request().headers("k", b"{}", event)
    assert made["webhook-id"] == "7"
    assert not any(name.startswith("ce-") for name in made)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "us-ascii", "binary", "8bit", "identity", ""])
def test_a_charset_is_no_encoding_of_http(encoding: str) -> None:
    assert "content-encoding" not in request().headers("", b"", {"content-encoding": encoding})


def test_another_encoding_is_sent() -> None:
    assert request().headers("", b"", {"content-encoding": "gzip"})["content-encoding"] == "gzip"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    assert outcome(status, origin="https://h") is None


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_a_busy_destination_is_unavailable_and_its_pause_honoured(status: int) -> None:
    made = outcome(status, origin="https://h", pause="7")
    assert isinstance(made, Unavailable)
    assert made.retry_after == 7.0


@pytest.mark.parametrize("status", [500, 501, 505, 599, 600])
def test_another_5xx_is_a_counted_failure(status: int) -> None:
    assert type(outcome(status, origin="https://h")) is DeliveryError


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 415, 422, 451])
def test_another_4xx_is_rejected_with_status_and_answer(status: int) -> None:
    made = outcome(status, origin="https://h", excerpt="no such order")
    assert type(made) is Rejected
    assert f"https://h answered {status} " in str(made)
    assert str(made).endswith(": no such order")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_forbidden_and_its_target_named(status: int) -> None:
    made = outcome(status, origin="https://h", location="https://h/new")
    assert isinstance(made, DestinationForbidden)
    assert str(made) == (
        "https://h answers with a redirect to https://h/new, which evbus does not follow; use that url"
    )
    assert "no location" in str(outcome(status, origin="https://h"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("299", 299.0),
        ("301", 300.0),
        ("9" * 5000, 300.0),
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW + 6000, usegmt=True), 300.0),
        (formatdate(NOW - 60, usegmt=True), 0.0),
        ("Tue, 14 Nov 2023 22:14:20 -0000", 60.0),
        ("Tue Nov 14 22:14:20 2023", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("Wed, 99 Xxx 0000", 0.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0.0),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_retry_after_is_seconds_or_a_date_in_gmt_and_capped(
    monkeypatch: pytest.MonkeyPatch, zone: str, value: str, seconds: float
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after(value, clock=lambda: NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()
