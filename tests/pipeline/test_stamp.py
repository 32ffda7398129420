from __future__ import annotations

import datetime as dt
import multiprocessing
import re
import socket
import sys
import threading
from typing import Any

import pop.hub
import pytest
from cloudevents.core.formats.json import JSONFormat

from evbus.engine.codec.wrapped import unwrapped
from evbus.engine.core.settings import Settings
from evbus.engine.stages import stamp
from evbus.errors import SettingsError
from evbus.types import Envelope


def stamped(hub: Any, routing_key: str = "order.paid", **headers: str) -> dict[str, str]:
    envelope = Envelope("default", routing_key, b"{}", {"content-type": "application/json", **headers})
    assert hub.pipeline.stamp.send(envelope) is None
    return envelope.headers


def test_an_event_gets_the_attributes_of_cloudevents(room: Any) -> None:
    before = dt.datetime.now(dt.UTC)
    headers = stamped(room)
    after = dt.datetime.now(dt.UTC)
    assert list(headers) == ["content-type", "ce-specversion", "ce-id", "ce-time", "ce-source", "ce-type"]
    assert (headers["ce-specversion"], headers["ce-type"]) == ("1.0", "order.paid")
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", headers["ce-id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", headers["ce-time"])
    assert before <= dt.datetime.fromisoformat(headers["ce-time"]) <= after


def test_the_type_of_an_event_without_a_routing_key_is_its_profile(room: Any) -> None:
    assert stamped(room, "")["ce-type"] == "default"


@pytest.mark.parametrize("name", ["ce-specversion", "ce-id", "ce-time", "ce-source", "ce-type"])
def test_what_the_caller_set_stays(room: Any, name: str) -> None:
    headers = stamped(room, **{name: "mine"})
    assert (headers[name], len(headers)) == ("mine", 6)
    assert "mine" not in [headers[other] for other in headers if other != name]


def test_the_source_is_the_host_and_the_program(room: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host one")
    monkeypatch.setattr(sys, "argv", ["/somewhere/my app.py", "x"])
    assert stamped(room)["ce-source"] == "/host%20one/my%20app.py"


def test_the_source_of_an_interactive_program_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [""])
    assert stamp.default_source().endswith("/python")


def test_the_option_event_source_names_the_source(room: Any) -> None:
    room.OPT = {"evbus": {"event_source": "urn:shop"}}
    assert stamped(room)["ce-source"] == "urn:shop"


def test_the_option_without_a_value_changes_nothing(room: Any) -> None:
    room.OPT = {"evbus": {"event_source": None}}
    assert stamped(room)["ce-source"] == stamp.default_source()


@pytest.mark.parametrize("source", ["/shop/a b", "größe", "a%2", "1:b", "a#b#c", "a\nb", '"'])
def test_a_source_that_is_no_uri_reference_is_refused(room: Any, source: str) -> None:
    with pytest.raises(SettingsError, match=r"evbus\.event_source: .* is no URI reference") as caught:
        room.pipeline.stamp.configure(Settings(event_source=source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["/shop", "urn:shop", "https://a.b:8080/c?d=e#f", "shop", "a/b:c", "%20", "//[::1]/a", "?a:b"]
)
def test_a_uri_reference_is_a_source(room: Any, source: str) -> None:
    room.pipeline.stamp.configure(Settings(event_source=source))
    assert stamped(room)["ce-source"] == source


def test_in_structured_mode_the_body_is_a_cloudevent_that_the_sdk_reads(room: Any) -> None:
    room.pipeline.stamp.configure(Settings(event_source="/shop", event_mode="structured"))
    envelope = Envelope("default", "order.paid", b'{"id": 1.10}', {"content-type": "application/json"})
    room.pipeline.stamp.send(envelope)
    assert envelope.headers["content-type"] == "application/cloudevents+json"
    read = JSONFormat().read(None, envelope.body)
    assert (read.get_type(), read.get_source(), read.get_data()) == ("order.paid", "/shop", {"id": 1.1})
    assert read.get_id() == envelope.headers["ce-id"]
    assert unwrapped(envelope).body == b'{"id": 1.10}'
    # A message in process has no body.
    envelope = Envelope("", "x", b"", {})
    room.pipeline.stamp.send(envelope)
    assert (envelope.body, envelope.headers.get("content-type")) == (b"", None)


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce_"])
def test_attributes_that_an_event_has_by_other_names_stay_its_own(room: Any, prefix: str) -> None:
    headers = {f"{prefix}id": "7", f"{prefix}type": "theirs"}
    found = stamped(room, **headers)
    assert (found["ce-id"], found["ce-type"]) == ("7", "theirs")
    assert not any(name.startswith(prefix) for name in found)
    assert found["ce-source"] == stamp.default_source()


def test_two_hubs_may_have_two_sources() -> None:
    sources = []
    for name in ("a", "b"):
        hub = pop.hub.Hub()
        hub.pop.sub.add(dyne_name="pipeline", pypath="evbus.pipeline")
        hub.OPT = {"evbus": {"event_source": name}}
        sources.append(stamped(hub)["ce-source"])
    assert sources == ["a", "b"]


def test_stamp_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.stamp.__optional__ is True


def test_ids_are_unique_between_threads() -> None:
    stamper, found = stamp.Stamper(), []

    def work() -> None:
        for _ in range(500):
            envelope = Envelope("p")
            stamper.stamp(envelope, "s")
            found.append(envelope.headers["ce-id"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2000
    assert len({found_id.partition("-")[0] for found_id in found}) == 1


def put_id(queue: Any) -> None:
    envelope = Envelope("p")
    stamp.stamp(envelope, "s")
    queue.put(envelope.headers["ce-id"])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_ids_of_its_own() -> None:
    context = multiprocessing.get_context("fork")
    prefixes = set()
    for _ in range(2):
        queue = context.SimpleQueue()
        child = context.Process(target=put_id, args=(queue,))
        child.start()
        prefixes.add(queue.get().partition("-")[0])
        child.join()
        child.close()
        queue.close()
    envelope = Envelope("p")
    stamp.stamp(envelope, "s")
    prefixes.add(envelope.headers["ce-id"].partition("-")[0])
    assert len(prefixes) == 3


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_777_852_800_000_001_999, "2026-05-04T00:00:00.000001Z"),
        (1_777_852_800_999_999_999, "2026-05-04T00:00:00.999999Z"),
        (1_777_852_801_000_000_000, "2026-05-04T00:00:01.000000Z"),
        (1_777_852_799_500_000_000, "2026-05-03T23:59:59.500000Z"),  # the clock was set back
    ],
)
def test_the_time_is_rfc_3339_in_utc(monkeypatch: pytest.MonkeyPatch, nanoseconds: int, text: str) -> None:
    stamper, envelope = stamp.Stamper(), Envelope("p")
    monkeypatch.setattr(stamp, "time_ns", lambda: 1_777_852_800_500_000_000)
    stamper.stamp(Envelope("p"), "s")
    monkeypatch.setattr(stamp, "time_ns", lambda: nanoseconds)
    stamper.stamp(envelope, "s")
    assert envelope.headers["ce-time"] == text
