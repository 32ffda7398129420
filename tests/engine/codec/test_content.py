from __future__ import annotations

import pytest

from evbus.engine.codec import content
from evbus.errors import ContentDisallowed, InvalidPayload
from tests.evbus.rig import failure

TYPES = {
    "init": "text/plain; charset=utf-8",
    "json": "application/json",
    "msgpack": "application/msgpack",
    "x": "",
}


@pytest.mark.parametrize(
    ("content_type", "plugin"),
    [
        ("application/json", "json"),
        (" Application/JSON ; charset=UTF-8", "json"),
        ("", "json"),
        ("; charset=utf-8", "json"),
        ("text/json", "json"),
        ("text/plain", "init"),
        ("TEXT/plain; charset=us-ascii", "init"),
        ("application/msgpack", "msgpack"),
        ("application/x-msgpack", "msgpack"),
        ("application/vnd.msgpack", "msgpack"),
    ],
)
def test_the_plugin_is_found_whatever_case_and_parameters(content_type: str, plugin: str) -> None:
    assert content.choose(content_type, TYPES) == plugin


@pytest.mark.parametrize(
    "written", ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
)
@pytest.mark.parametrize("came", ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"])
def test_messagepack_is_read_by_each_of_its_names_whichever_is_written(written: str, came: str) -> None:
    assert content.choose(came, {**TYPES, "msgpack": written}) == "msgpack"
    assert content.choose(came, {**TYPES, "own": came}) == "own"


def test_a_plugin_for_a_json_dialect_goes_before_json() -> None:
    types = {**TYPES, "geo": "application/geo+json"}
    assert content.choose("application/geo+json", types) == "geo"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-python-pickle",
        "application/python-pickle",
        "application/x-pickle",
        "application/vnd.python.pickle",
        "Application/Pickle; x=1",
        "application/x-python-serialize",
        "application/x-marshal",
        "application/x-java-serialized-object",
    ],
)
def test_what_could_run_code_is_disallowed(content_type: str) -> None:
    with pytest.raises(ContentDisallowed) as caught:
        content.choose(content_type, {**TYPES, "pickle": "application/x-pickle"})
    name = content_type.partition(";")[0].lower()
    assert str(caught.value) == (
        f"a body of the content type {name!r} is never decoded, because decoding it can run code; "
        "send JSON or MessagePack"
    )


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        ("image/png", "the content type 'image/png'"),
        ("text/calendar", "the content type 'text/calendar'"),
    ],
)
def test_an_unknown_type_is_refused_with_the_known_ones(content_type: str, said: str) -> None:
    assert (
        failure(InvalidPayload, content.choose, content_type, TYPES)
        == f"no plugin reads {said}; known: application/json, application/msgpack, text/plain"
    )


def test_a_body_without_a_content_type_is_what_the_bus_writes_itself() -> None:
    assert content.choose("", TYPES, "msgpack") == "msgpack"
    assert content.choose("", TYPES, "a plugin of pop-serial") == "json"


def test_that_a_type_is_written_in_json_does_not_make_it_an_event() -> None:
    assert failure(InvalidPayload, content.choose, "application/vnd.shop+json; a=b", TYPES) == (
        "no plugin reads the content type 'application/vnd.shop+json'; known: application/json, "
        "application/msgpack, text/plain. That it ends with +json says that it is written in JSON, and "
        "not that it is the event itself; if it is, name it in the option json_types"
    )
    named = ("application/vnd.shop+json",)
    assert content.choose("Application/vnd.shop+JSON", TYPES, json_types=named) == "json"


def test_a_document_around_an_event_is_no_event() -> None:
    with pytest.raises(InvalidPayload, match="it is a document around an event, and not"):
        content.choose("application/cloudevents+json; charset=utf-8", TYPES)
