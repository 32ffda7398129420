"""Deliveries and subscriptions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.types import Delivery, Envelope, Subscription


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
