"""Which profile is consumed from."""

from __future__ import annotations

import fnmatch
from typing import Any

import msgspec
import pytest

from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.intake.sources import check, find
from evbus.engine.core.profiles import read_profiles
from evbus.errors import ConfigError, ProfileError
from tests.evbus.rig import failure


class Settings(msgspec.Struct, frozen=True):
    queue: str = ""
    routing_key: str | None = None


AMQP = Plugin("amqp", ("amqp", "pika"), Settings)
LINES = Plugin("lines", ("lines",))
ACCEPTS = [AMQP, LINES]


def test_a_profile_is_found_by_its_name_and_checked() -> None:
    data = {"queue": "orders", "delivery": {"batch": 1}}
    found = find({"pika": [{"a": {}}, {"b": data}], "file": {"c": {}}}, "b", ACCEPTS)
    assert found[:5] == (AMQP, "pika", "b", {"queue": "orders"}, Settings(queue="orders"))
    assert find({"lines": {"b": None}}, "b", ACCEPTS)[:5] == (LINES, "lines", "b", {}, None)


def test_a_provider_in_front_chooses_among_several_of_one_name() -> None:
    contexts = {"amqp": {"a": {}}, "lines": {"a": {}}, "file": {"a": {}}}
    assert find(contexts, "lines.a", ACCEPTS).plugin.name == "lines"
    with pytest.raises(ProfileError, match=r"several profiles are called 'a'; say amqp.a or lines.a"):
        find(contexts, "a", ACCEPTS)


def test_of_several_of_one_name_the_one_that_can_be_consumed_from_is_meant() -> None:
    assert find({"file": {"a": {}}, "lines": {"a": {}}}, "a", ACCEPTS).plugin.name == "lines"


@pytest.mark.parametrize(
    ("contexts", "sentence"),
    [
        ({"amqp": {"orders": {}}}, "there is no profile 'order' to consume from; did you mean 'orders'?"),
        ({}, "there is no profile 'order' to consume from"),
        (
            {"file": {"order": {}}},
            "file.order: nothing can be consumed from the provider 'file'; those that can: amqp, lines, pika",
        ),
        ({"amqp": {"order": {"que": 1}}}, "amqp.order.que: there is no such key; did you mean 'queue'?"),
        ({"lines": {"order": "x"}}, "lines.order: a profile's data are a mapping, not str"),
    ],
)
def test_a_mistake_is_told_with_its_place(contexts: Any, sentence: str) -> None:
    assert failure(ProfileError, find, contexts, "order", ACCEPTS, "p.yml") == f"p.yml: {sentence}"


# Where it leads


def profiles(contexts: Any) -> list[Endpoint]:
    accepts = [Plugin("amqp", ("amqp",)), Plugin("file", ("file",))]
    return read_profiles(contexts, accepts, source="p", find=fnmatch.fnmatchcase, broken={}, others={"lines"})


def checked(contexts: Any, source: str, profile: str) -> None:
    check(find(contexts, source, ACCEPTS), profile, profiles(contexts), fnmatch.fnmatchcase)


def test_a_source_leads_to_other_profiles() -> None:
    checked({"amqp": {"a": {}, "b": {}}}, "a", "b")
    checked({"amqp": [{"a": {}}, {"*": {}}]}, "a", "b")
    checked({"amqp": {"a": {}}, "file": {"b*": {"delivery": {"dead_letter": "bad"}}}}, "a", "b")
    checked({"lines": {"in": {}}, "file": {"in": {"delivery": {"dead_letter": "in"}}}}, "in", "in")


@pytest.mark.parametrize(
    ("contexts", "source", "sentence"),
    [
        (
            {"amqp": {"in": {}}},
            "in",
            "no profile matches 'out', so what is consumed from 'in' would go nowhere",
        ),
        ({"amqp": {"*": {}}, "file": {"out": {}}}, "*", "from '*' would go back to it, as 'out' matches it"),
        (
            {"amqp": {"in": {}, "out": {"delivery": {"dead_letter": "in"}}}},
            "in",
            "amqp.out.delivery.dead_letter: what is refused there would go back to 'in'",
        ),
    ],
)
def test_a_source_that_leads_nowhere_or_back_is_refused(contexts: Any, source: str, sentence: str) -> None:
    assert sentence in failure(ConfigError, checked, contexts, source, "out")
