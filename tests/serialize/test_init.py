from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pop.hub
import pytest

from evbus.engine.core.settings import Settings
from evbus.errors import ContentDisallowed, InvalidPayload, PayloadTooDeep, SerializeError, SettingsError
from tests.evbus.kit import new_hub

PLUGINS = {
    "init": "text/plain; charset=utf-8",
    "json": "application/json",
    "msgpack": "application/msgpack",
}
BODY = {"id": 1, "tags": {"b", "a"}}


@pytest.fixture
def room() -> Any:
    """Return a hub with this room alone."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="serialize", pypath="evbus.serialize")
    return hub


def test_json_is_the_default(room: Any) -> None:
    assert room.serialize.PLUGIN == "json"


def test_an_application_s_choice_outlives_a_second_init(room: Any) -> None:
    init: Any = importlib.import_module("evbus.serialize.init")
    room.serialize.PLUGIN = "msgpack"
    init.__init__(room)
    assert room.serialize.PLUGIN == "msgpack"


@pytest.mark.parametrize(("plugin", "content_type"), PLUGINS.items())
def test_every_plugin_declares_the_type_it_writes(room: Any, plugin: str, content_type: str) -> None:
    assert content_type == room.serialize[plugin].CONTENT_TYPE
    assert room.serialize.init.by_content_type(content_type.upper()) == plugin


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_engine_does_what_apply_does(room: Any, plugin: str) -> None:
    assert room.serialize[plugin].ENGINE("a") == room.serialize[plugin].apply("a")


def test_every_plugin_writes_and_reads_through_the_hub(room: Any) -> None:
    assert room.serialize.json.apply(BODY) == b'{"id":1,"tags":["a","b"]}'
    assert room.serialize.json.load(data=room.serialize.json.apply(data=BODY)) == {
        "id": 1,
        "tags": ["a", "b"],
    }
    assert room.serialize.msgpack.load(room.serialize.msgpack.apply(BODY)) == {"id": 1, "tags": ["a", "b"]}
    assert room.serialize.init.load(room.serialize.init.apply([1])) == "[1]"
    assert math.isnan(room.serialize.json.load(room.serialize.json.apply(math.nan)))


def test_what_has_no_form_is_an_error_unless_its_repr_is_asked_for(room: Any) -> None:
    with pytest.raises(SerializeError, match=r"the class object has no plain form"):
        room.serialize.json.apply({"a": object})
    init: Any = importlib.import_module("evbus.serialize.json")
    for fallback, written in (("repr", b'{"a":"<class \'object\'>"}'), ("error", None)):
        room.serialize.json.configure(Settings(json_fallback=fallback))
        init.__init__(room)  # as POP does when it rebuilds the room
        for apply in (room.serialize.json.apply, room.serialize.json.ENGINE):
            if written is None:
                with pytest.raises(SerializeError):
                    apply({"a": object})
            else:
                assert apply({"a": object}) == written


def test_errors_raised_in_plugins_are_those_of_the_tree(room: Any) -> None:
    with pytest.raises(SerializeError):
        room.serialize.json.apply({(): 1})
    with pytest.raises(PayloadTooDeep):
        room.serialize.json.load(b"[" * 100)
    with pytest.raises(ContentDisallowed):
        room.serialize.init.by_content_type("application/x-pickle")
    with pytest.raises(InvalidPayload):
        room.serialize.init.by_content_type("image/png")


def test_a_body_without_a_content_type_is_read_as_the_application_chose(room: Any) -> None:
    assert room.serialize.init.by_content_type("") == "json"
    room.serialize.PLUGIN = "msgpack"
    assert room.serialize.init.by_content_type("") == "msgpack"


def test_the_option_json_types_names_what_is_read_as_json(room: Any) -> None:
    with pytest.raises(InvalidPayload, match="name it in the option json_types"):
        room.serialize.init.by_content_type("application/vnd.shop+json")
    room.serialize.init.configure(Settings(json_types=("application/vnd.Shop+json",)))
    assert room.serialize.init.by_content_type("application/vnd.shop+json") == "json"


def test_messagepack_has_the_name_that_the_option_says_and_is_read_by_every_name(room: Any) -> None:
    init: Any = importlib.import_module("evbus.serialize.msgpack")
    for chosen in ("application/x-msgpack", "application/vnd.msgpack", "application/msgpack"):
        room.serialize.msgpack.configure(Settings(msgpack_content_type=chosen))
        init.__init__(room)  # as POP does when it rebuilds the room
        assert chosen == room.serialize.msgpack.CONTENT_TYPE
        for came in ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack"):
            assert room.serialize.init.by_content_type(came) == "msgpack"


def test_kombu_reads_messagepack_by_the_name_that_it_knows_and_is_read() -> None:
    kombu = pytest.importorskip("kombu.serialization")
    body = {"order_id": "A-1", "total": 1.5, "lines": [1, 2]}
    hub = new_hub(serialize_plugin="msgpack", msgpack_content_type="application/x-msgpack")
    event = hub.evbus.BROKER.envelope("orders", body, "p", None)
    kind, accept = event.headers["content-type"], kombu.prepare_accept_content(["msgpack"])
    assert kombu.loads(event.body, kind, "binary", accept=accept) == body
    with pytest.raises(kombu.ContentDisallowed):
        kombu.loads(event.body, "application/msgpack", "binary", accept=accept)
    written, encoding, data = kombu.dumps(body, serializer="msgpack")
    assert (written, encoding) == (kind, "binary")
    assert hub.serialize[hub.serialize.init.by_content_type(written)].load(data) == body


def test_a_name_that_nobody_knows_messagepack_by_is_refused() -> None:
    with pytest.raises(SettingsError, match="msgpack_content_type"):
        new_hub(msgpack_content_type="application/json").evbus.init.settings()


def test_a_dropped_in_plugin_takes_part(room: Any, tmp_path: Path) -> None:
    (tmp_path / "upper.py").write_text(
        "def __init__(hub):\n    hub.serialize.upper.CONTENT_TYPE = 'text/upper'\n\n"
        "def apply(hub, data):\n    return str(data).upper().encode()\n\n"
        "def load(hub, data):\n    return data.decode().lower()\n"
    )
    room.pop.sub.extend("serialize", static=[str(tmp_path)])
    assert room.serialize.init.by_content_type("text/upper") == "upper"
    assert room.serialize.upper.load(room.serialize.upper.apply("a")) == "a"


@pytest.mark.parametrize("name", ["application/*+json", "json", "", "*/*"])
def test_what_is_no_content_type_is_refused_by_json_types(room: Any, name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"evbus\.json_types\[1\]: .* is no content type; each is named by"
    ):
        room.serialize.init.configure(Settings(json_types=("application/x+json", name)))


def test_parameters_of_what_json_types_names_mean_nothing(room: Any) -> None:
    room.serialize.init.configure(Settings(json_types=("Application/vnd.shop+json; charset=utf-8",)))
    assert room.serialize.init.by_content_type("application/vnd.shop+json") == "json"
