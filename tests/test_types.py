"""Deliveries and subscriptions."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from evbus.types import (
    Delivery,
    Envelope,
    Native,
    NativeHeaders,
    Origin,
    SharedHeaders,
    SharedNativeHeaders,
    Subscription,
    own_headers,
)


def delivery(**options: Any) -> tuple[Delivery, list[tuple[Any, bool, bool]]]:
    settled: list[tuple[Any, bool, bool]] = []

    def settle(tag: Any, accepted: bool, requeue: bool) -> None:
        settled.append((tag, accepted, requeue))

    return Delivery(Envelope("orders", "key", b"body"), settle, 7, **options), settled


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda one: one.ack(), (7, True, False)),
        (lambda one: one.reject(), (7, False, False)),
        (lambda one: one.reject(requeue=True), (7, False, True)),
        (lambda one: one.give_back(), (7, None, True)),
    ],
)
def test_it_is_settled_once(how: Any, told: Any) -> None:
    one, settled = delivery()
    assert not one.settled
    how(one)
    assert one.settled
    assert settled == [told]
    one.ack()
    one.reject(requeue=True)
    how(one)
    assert settled == [told]


def test_settling_within_settling_does_nothing() -> None:
    told: list[bool] = []

    def settle(tag: Any, accepted: bool, requeue: bool) -> None:
        told.append(accepted)
        one.ack()

    one = Delivery(Envelope("orders"), settle, 1)
    one.reject()
    assert told == [False]


def test_what_it_says_about_the_message() -> None:
    one, _ = delivery()
    assert one.envelope.body == b"body"
    assert not one.redelivered
    assert one.delivery_count is None
    again, _ = delivery(redelivered=True, delivery_count=3)
    assert again.redelivered
    assert again.delivery_count == 3


def test_its_repr_shows_its_state_and_not_its_body() -> None:
    one, _ = delivery()
    assert repr(one) == "<Delivery 7 'key' unsettled>"
    one.ack()
    assert repr(one) == "<Delivery 7 'key' settled>"


def test_a_subscription_is_a_value() -> None:
    assert Subscription() == Subscription(name="", group="", per_process=False, durable=True, prefetch=0)
    assert len({Subscription(name="a"), Subscription(name="a"), Subscription(name="a", group="g")}) == 2
    with pytest.raises(AttributeError):
        Subscription().name = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Subscription("a")  # type: ignore[misc]
    changed = msgspec.structs.replace(Subscription(name="a"), prefetch=5)
    assert (changed.name, changed.prefetch) == ("a", 5)


@pytest.mark.parametrize(
    ("wanted", "profile", "right"),
    [
        (Subscription(), None, 100),
        (Subscription(concurrency=1), None, 10),
        (Subscription(concurrency=50), None, 100),
        (Subscription(concurrency=5000), None, 1000),
        (Subscription(concurrency=50), 7, 7),
        (Subscription(prefetch=3, concurrency=50), 7, 3),
    ],
)
def test_the_prefetch_follows_the_concurrency_unless_somebody_says_otherwise(
    wanted: Subscription, profile: int | None, right: int
) -> None:
    assert wanted.prefetch_for(profile) == right


def test_an_origin_tells_once_that_it_has_ended() -> None:
    origin, told = Origin(), []
    origin.watch(told.append)
    origin.watch(told.append)
    one, _ = delivery(origin=origin)
    assert not one.gone

    origin.pause()
    paused: list[int] = []
    Origin(lambda: paused.append(1)).pause()
    assert paused == [1]
    assert not one.gone
    origin.end("the channel was closed")
    origin.end("again")

    assert told == [origin]
    assert origin.ended == "the channel was closed"
    assert one.gone
    origin.watch(told.append)
    assert told == [origin, origin]


def test_what_is_dropped_is_settled_without_a_word() -> None:
    one, settled = delivery()
    one.drop()
    one.ack()
    assert one.settled
    assert settled == []


# Headers that were no text


CAME = {"n": Native("5", "amqp", b"I\0\0\0\5")}


def test_a_copy_of_headers_knows_their_types_and_a_plain_one_does_not() -> None:
    shared = SharedNativeHeaders({"n": "5", "a": "b"}, CAME)
    with pytest.raises(TypeError, match="copy them first"):
        shared["n"] = "6"
    for own in (shared.copy(), shared.copy().copy(), own_headers(shared), own_headers(own_headers(shared))):
        assert own == shared
        own["a"] = "c"
        assert own.native is CAME  # type: ignore[attr-defined]
    assert type(dict(shared)) is type(own_headers({"a": "b"})) is dict
    assert type(own_headers(SharedHeaders({"a": "b"}))) is dict


def test_an_envelope_with_another_key_or_profile_keeps_the_types_of_its_headers() -> None:
    envelope = Envelope("p", headers=SharedNativeHeaders({"n": "5"}, CAME))
    replaced = envelope.replace(profile="q", headers=envelope.headers)
    replaced.headers["a"] = "b"
    assert isinstance(replaced.headers, NativeHeaders)
    assert replaced.replace(routing_key="k").headers is replaced.headers
    assert type(envelope.replace(headers=MappingProxyType({"a": "b"})).headers) is dict


def test_a_deep_copy_of_headers_knows_their_types() -> None:
    for headers in (NativeHeaders({"n": "5"}, CAME), SharedNativeHeaders({"n": "5"}, CAME)):
        again = copy.deepcopy(headers)
        assert (again, again.native, type(again)) == (headers, CAME, type(headers))
