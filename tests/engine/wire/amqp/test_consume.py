"""Which queue a subscription consumes from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.engine.wire.amqp.consume import source_of
from evbus.engine.wire.amqp.profile import Profile, QueueDeclaration
from evbus.errors import ProfileError
from evbus.types import Subscription

EVENTS = {"exchange": {"name": "events", "type": "topic"}}


def source(subscription: dict[str, Any], **profile: Any) -> Any:
    return source_of(msgspec.convert(profile, Profile), Subscription(**subscription))


def test_without_a_name_it_is_the_profiles_own_queue() -> None:
    named = source({}, queue="orders")
    assert (named.queue.name, named.bind, named.passive, named.own) == ("orders", [], True, False)
    declared = source({}, queue={"name": "orders", "type": "quorum", "bind": "a.#"}, **EVENTS)
    assert (declared.queue.name, declared.queue.type, declared.bind) == ("orders", "quorum", ["a.#"])
    assert declared.passive is False


@pytest.mark.parametrize(
    ("subscription", "profile", "name", "bind"),
    [
        ({"name": "order.made"}, EVENTS, "order.made", ["order.made"]),
        ({"name": "order.made", "group": "mail"}, EVENTS, "order.made::mail", ["order.made"]),
        ({"name": "made"}, {**EVENTS, "routing_key": "eu.{routing_key}"}, "made", ["eu.made"]),
        ({"name": "made"}, {}, "made", ["made"]),
        ({"group": "mail"}, {**EVENTS, "queue": "orders"}, "orders::mail", ["orders"]),
        ({"group": "mail"}, {**EVENTS, "queue": {"name": "o", "bind": ["a", "b"]}}, "o::mail", ["a", "b"]),
    ],
)
def test_with_a_name_or_group_it_is_a_queue_of_that_name_bound_by_the_name(
    subscription: dict[str, Any], profile: dict[str, Any], name: str, bind: list[str]
) -> None:
    found = source(subscription, **profile)
    assert (found.queue.name, found.bind) == (name, bind)
    assert found.queue.durable
    assert not found.own
    assert not found.passive


def test_other_settings_are_those_of_the_profiles_queue() -> None:
    queue = {"type": "quorum", "dead_letter_exchange": "dead", "arguments": {"x-delivery-limit": 3}}
    found = source({"name": "made", "group": "g"}, queue=queue, **EVENTS).queue
    assert found.table() == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "dead",
        "x-delivery-limit": 3,
    }


def test_a_copy_for_this_process_has_a_name_of_its_own() -> None:
    wanted = {"name": "made", "group": "g", "per_process": True}
    one, other = (source(wanted, queue={"type": "quorum"}, **EVENTS) for _ in range(2))
    assert one.queue.name.startswith("made::g::")
    assert one.queue.name != other.queue.name
    assert one.own
    assert one.queue == QueueDeclaration(type="quorum").passing(one.queue.name)
    assert one.bind == ["made"]


def test_what_need_not_be_durable_goes_when_nobody_comes_back() -> None:
    found = source({"name": "made", "durable": False}, queue={"type": "quorum"}, **EVENTS)
    assert found.queue == QueueDeclaration(type="quorum").passing("made")
    assert not found.own


@pytest.mark.parametrize(
    ("subscription", "profile", "path", "why"),
    [
        ({}, {}, "queue", "nothing says what to consume: name a queue, such as 'queue: orders'"),
        ({"name": "made", "group": "g"}, {}, "exchange", "need an exchange that feeds several queues"),
        ({"name": "made", "per_process": True}, {"exchange": "default"}, "exchange", "need an exchange"),
        (
            {"name": "made"},
            {"exchange": {"name": "events", "type": "headers"}},
            "exchange",
            "an exchange of type headers looks at no routing key, and so leads every event to 'made'",
        ),
    ],
)
def test_what_cannot_be_consumed_is_a_sentence(
    subscription: dict[str, Any], profile: dict[str, Any], path: str, why: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        source(subscription, **profile)
    assert why in str(caught.value)
    assert caught.value.path == path
