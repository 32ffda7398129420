from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.core.settings import Settings
from evbus.engine.stages.keys import SignKey
from evbus.engine.stages.receiver import RECEIVER
from evbus.engine.stages.sign import Signer
from evbus.errors import Rejected, SettingsError
from evbus.types import Envelope, SharedHeaders

OLD, NEW = (
    SignKey("2025", b"an-older-secret-of-32-characters"),
    SignKey("2026", b"the-newer-secret-of-32-characters"),
)
HEADERS = {"content-type": "application/json", "ce-id": "1", "evbus-session": '{"user":"joe"}', "x-any": "y"}
NOW = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def signer(*keys: SignKey, clock: Clock | None = None, tolerance: float = 300, limit: int = 1000) -> Signer:
    return Signer(keys or (NEW,), tolerance, limit, clock or Clock())


def signed(by: Signer, **changed: Any) -> Envelope:
    """Return an event as it is received, or as ``changed`` on its way."""
    envelope = Envelope("p", "orders", b'{"id":1}', dict(HEADERS))
    by.send(envelope)
    for name, value in changed.items():
        setattr(envelope, name, value)
    envelope.headers = SharedHeaders(envelope.headers)
    return envelope


def handled(by: Signer, envelope: Envelope, receiver: str = "") -> Envelope:
    """Return what the handler gets."""

    async def handler(envelope: Envelope) -> Envelope:
        return envelope

    return asyncio.run(by.handle(envelope, receiver, handler))  # type: ignore[arg-type]


def refused(by: Signer, envelope: Envelope) -> str:
    with pytest.raises(Rejected) as caught:
        handled(by, envelope)
    for key in (OLD, NEW):
        assert key.secret.decode() not in str(caught.value)
    return str(caught.value)


def test_a_signature_is_the_hmac_of_the_fields_that_are_documented() -> None:
    envelope = signed(signer())
    fields = ["evbus-v1", str(NOW), "1", "orders", "application/json"]
    fields += ["ce-id", "1", "evbus-session", '{"user":"joe"}', '{"id":1}']
    message = b"".join(struct.pack(">I", len(field)) + field.encode() for field in fields)
    right = base64.b64encode(hmac.new(NEW.secret, message, hashlib.sha256).digest()).decode()
    assert envelope.headers == {
        **HEADERS,
        "evbus-signed-at": str(NOW),
        "evbus-signed-routing-key": "orders",
        "evbus-signature": f"v1,2026,{right}",
    }


def test_what_was_signed_is_handled() -> None:
    by = signer()
    envelope = signed(by)
    assert handled(by, envelope) is envelope


def test_the_first_key_signs_and_all_verify() -> None:
    before, between, after = signer(OLD), signer(NEW, OLD), signer(NEW)
    assert signed(between).headers["evbus-signature"].startswith("v1,2026,")
    assert handled(between, signed(before))
    assert handled(after, signed(between))
    assert refused(after, signed(before)) == "the event is signed with the unknown key '2025'"
    assert "of that id differ" in refused(signer(SignKey("2026", OLD.secret)), signed(after))


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b'{"id":2}'},
        {"body": b""},
        {"headers": {"content-type": "text/plain"}},
        {"headers": {"ce-id": "2"}},
        {"headers": {"ce-type": "added"}},
        {"headers": {"evbus-session": '{"user":"eve"}'}},
        {"headers": {"evbus-added": "x"}},
        {"headers": {"content-encoding": "deflate"}},
        {"headers": {"evbus-signed-at": str(NOW + 1)}},
        {"headers": {"evbus-signed-routing-key": "refunds"}},
        {"headers": {"evbus-signature": "v1,2026," + "A" * 43 + "="}},
        {"headers": {"evbus-signature": "v1,2026,"}},
        {"headers": {"content-type": None}},
        {"headers": {"ce-id": None}},
        {"headers": {"evbus-session": None}},
        {"headers": {"evbus-signed-routing-key": None}},
    ],
    ids=str,
)
def test_what_was_altered_is_rejected(changed: dict[str, Any]) -> None:
    by = signer()
    envelope = signed(by)
    if "headers" in changed:
        merged = {**envelope.headers, **changed["headers"]}
        changed = {"headers": {name: value for name, value in merged.items() if value is not None}}
    altered = signed(by, **changed)
    assert refused(by, altered).startswith("the signature of the event is wrong: it was altered after it was")


def test_fields_cannot_be_shifted_into_each_other() -> None:
    by = signer()
    envelope = Envelope("p", "ab", b"c", {"ce-id": "1"})
    by.send(envelope)
    moved = envelope.replace(headers={**envelope.headers, "evbus-signed-routing-key": "a"})
    moved.body = b"bc"
    assert "altered" in refused(by, moved)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"evbus-signature": None}, "the event is not signed: it has no header evbus-signature"),
        ({"evbus-signed-at": None}, "the event is not signed: it has no header evbus-signed-at"),
        ({"evbus-signature": "v0,2026,AAAA"}, "the signature has the version 'v0', and v1 is what is known"),
        ({"evbus-signature": "v1,\x1b[1m,AAAA"}, "unknown key '\\\\x1b[1m'"),
        ({"evbus-signature": "v1,2026"}, "the signature of the event is wrong"),
        ({"evbus-signature": "v1,2026,?"}, "is not of the form v1,<key id>,<base64>"),
        ({"evbus-signature": "v1,2026,é"}, "is not of the form v1,<key id>,<base64>"),
        ({"evbus-signed-at": "+5"}, "the header evbus-signed-at is no number of seconds: '+5'"),
        ({"evbus-signed-at": "²"}, "is no number of seconds"),
        ({"evbus-signed-at": "9" * 5000}, "is no number of seconds"),
        ({"Ce-Id": "2"}, "the names of two of its headers differ in case only"),
    ],
)
def test_what_is_not_signed_properly_is_rejected(changed: dict[str, str | None], reason: str) -> None:
    by = signer()
    merged = {**signed(by).headers, **changed}
    headers = {name: value for name, value in merged.items() if value is not None}
    assert reason in refused(by, signed(by, headers=headers))


def test_a_signature_is_good_for_its_tolerance() -> None:
    clock = Clock()
    by = signer(clock=clock)
    first, second = signed(by), signed(by, profile="q")
    clock.now += 300
    assert handled(by, first)
    clock.now += 1
    assert refused(by, second) == "the event was signed 301 s ago, more than the 300 s of sign_tolerance"


def test_a_signature_from_the_future_is_rejected_but_for_clocks_that_differ_a_little() -> None:
    clock = Clock()
    by = signer(clock=clock)
    envelope = signed(by)
    clock.now -= 6
    assert refused(by, envelope).startswith("the event was signed 6 s in the future")
    clock.now += 1
    assert handled(by, envelope)


def test_a_replay_is_rejected_for_as_long_as_the_signature_is_good() -> None:
    clock = Clock()
    by = signer(clock=clock)
    envelope = signed(by)
    clock.now -= 5
    assert handled(by, envelope)
    replay = "the event is a replay: one with this signature was handled before"
    for seconds in (0, 150, 155):
        clock.now += seconds
        assert refused(by, envelope) == replay
    clock.now += 1
    assert "301 s ago" in refused(by, envelope)


def test_a_replay_cannot_hide_behind_what_is_not_signed() -> None:
    by = signer()
    envelope = signed(by)
    assert handled(by, envelope)
    headers = {name.title(): value for name, value in envelope.headers.items()}
    headers["Traceparent"] = "00-..."
    assert "replay" in refused(by, envelope.replace(profile="q", routing_key="z", headers=headers))


def test_an_event_whose_handler_failed_may_be_delivered_again() -> None:
    async def main() -> str:
        async def failing(envelope: Envelope) -> None:
            raise KeyError

        async def handler(envelope: Envelope) -> str:
            return "handled"

        with pytest.raises(KeyError):
            await by.handle(envelope, "", failing)
        return str(await by.handle(envelope, "", handler))

    by = signer()
    envelope = signed(by)
    assert asyncio.run(main()) == "handled"
    assert "replay" in refused(by, envelope)


def test_each_receiver_takes_an_event_once() -> None:
    by = signer()
    envelope = signed(by)
    for name in ("billing", "shipping"):
        assert handled(by, envelope, name)
    for name in ("billing", "shipping"):
        with pytest.raises(Rejected, match="replay"):
            handled(by, envelope, name)


def test_two_events_that_say_the_same_are_no_replay() -> None:
    by = signer()
    envelopes = [Envelope("p", "k", b"x", {}) for _ in range(2)]
    for envelope in envelopes:
        by.send(envelope)
        assert handled(by, envelope)
    assert len({envelope.headers["ce-id"] for envelope in envelopes}) == 2


def test_what_is_forgotten_early_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    by = signer(limit=2)
    for _ in range(5):
        envelope = Envelope("p", "k", b"x", {})
        by.send(envelope)
        assert handled(by, envelope)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("evbus.pipeline.sign", logging.WARNING)
    assert record.getMessage() == (
        "more than 2 signed events within 306 s: a replay of the oldest would not be noticed; "
        "raise sign_limit"
    )


def test_a_profile_may_send_with_another_routing_key_and_the_handler_sees_the_one_that_was_signed() -> None:
    by = signer()
    assert handled(by, signed(by, routing_key="queue-of-the-profile")).routing_key == "orders"


def test_what_the_way_adds_is_not_signed() -> None:
    by = signer()
    added = {"evbus-routing-key": "x", "evbus-dead-reason": "no", "traceparent": "00-", "message-id": "7"}
    assert handled(by, signed(by, headers={**signed(by).headers, **added}))


def test_a_signature_that_was_taken_along_is_replaced() -> None:
    by = signer()
    envelope = signed(by)
    again = Envelope("p", "other", b"else", {**envelope.headers, "Evbus-Signature": "x"})
    by.send(again)
    assert handled(by, again)
    assert "Evbus-Signature" not in again.headers


def test_headers_that_differ_in_case_only_cannot_be_signed() -> None:
    with pytest.raises(Rejected, match="differ in case only"):
        signer().send(Envelope("p", "k", b"", {"ce-id": "1", "CE-ID": "2"}))


def test_a_message_in_process_reaches_each_of_its_handlers_however_long_it_waits() -> None:
    clock = Clock()
    by = signer(clock=clock)
    envelope = Envelope("", "Order", b"", {})
    by.send(envelope)
    assert set(envelope.headers) == {"evbus-signed-at", "evbus-signature"}
    clock.now += 10_000
    for _ in range(2):
        assert handled(by, envelope) is envelope


@pytest.mark.parametrize("headers", [{}, {"evbus-signature": "x"}, {"evbus-message": "Order"}])
def test_what_others_sent_does_not_pass_for_a_message_in_process(headers: dict[str, str]) -> None:
    by = signer()
    remote = Envelope("p", "Order", b"", {"ce-id": "1"})
    by.send(remote)
    for headed in ({**remote.headers, **headers}, headers):
        reason = refused(by, Envelope("", "Order", b"", headed))
        assert reason.startswith("the message was not signed in this process")


def test_a_message_in_process_does_not_pass_for_what_others_sent() -> None:
    by = signer()
    local = Envelope("", "Order", b"", {})
    by.send(local)
    assert "altered" in refused(by, local.replace(profile="p", headers={**local.headers}))


def test_no_repr_holds_a_secret() -> None:
    assert repr(signer(NEW, OLD)) == "<Signer keys=2026,2025 tolerance=300 s>"
    assert repr((NEW, OLD)) == "(<Key 2026>, <Key 2025>)"


@given(
    body=st.binary(max_size=200),
    routing_key=st.text(max_size=20),
    headers=st.dictionaries(
        st.sampled_from(["ce-id", "ce-a", "evbus-b", "content-type", "x"]), st.text(max_size=20)
    ),
)
def test_whatever_is_signed_is_verified(body: bytes, routing_key: str, headers: dict[str, str]) -> None:
    by = signer(NEW, OLD)
    envelope = Envelope("p", routing_key, body, headers)
    by.send(envelope)
    assert handled(by, envelope) is envelope


async def test_the_plugin_takes_its_options(room: Any) -> None:
    room.pipeline.sign.configure(Settings(sign_keys=("a:0123456789abcdef",), sign_tolerance=60.0))
    assert repr(room.pipeline.SIGNER) == "<Signer keys=a tolerance=60 s>"

    async def handler(envelope: Envelope) -> str:
        return envelope.routing_key

    envelope = Envelope("p", "k", b"x", {})
    assert room.pipeline.sign.send(envelope) is None
    found = []
    for receiver in ("a", "b"):
        RECEIVER.set(receiver)
        found.append(await room.pipeline.sign.handle(envelope, handler))
    assert found == ["k", "k"]


def test_the_plugin_does_not_work_without_a_key(room: Any) -> None:
    with pytest.raises(SettingsError, match=r"evbus\.sign_keys: the pipeline plugin sign needs a key"):
        room.pipeline.sign.configure(Settings())


def test_sign_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.sign.__optional__ is True
