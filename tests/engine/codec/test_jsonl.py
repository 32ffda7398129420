"""What is written as a line is read back byte for byte; what is no event is refused in a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus import errors
from evbus.engine.codec import jsonl
from evbus.types import Envelope

JSON_HEADERS = {"content-type": "application/json"}
LIMIT = 1 << 20


def written(body: bytes, content_type: str = jsonl.JSON, **headers: str) -> dict[str, Any]:
    """Encode a body and return the line as a dictionary."""
    line = jsonl.encode(Envelope("p", "a.b", body, {"content-type": content_type, **headers}))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return dict(json.loads(line))


def test_a_json_event_has_its_body_raw_and_no_headers() -> None:
    line = jsonl.encode(Envelope("p", "a.b", b'{"z": 1.50, "a":"\\u00e9"}', JSON_HEADERS))
    assert line == b'{"routing_key":"a.b","profile":"p","body":{"z": 1.50, "a":"\\u00e9"}}\n'


def test_further_headers_are_written_in_full() -> None:
    assert written(b"1", id="7")["headers"] == {"content-type": "application/json", "id": "7"}


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/cloudevents+json"])
def test_relatives_of_json_stay_raw(content_type: str) -> None:
    line = written(b"[1]", content_type)
    assert (line["body"], line["headers"]["content-type"]) == ([1], content_type)


def test_text_is_a_string_with_its_content_type() -> None:
    line = written("grüß\nGott".encode(), "text/plain")
    assert (line["body"], line["headers"]) == ("grüß\nGott", {"content-type": "text/plain"})


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff", "text/plain"),
        (b"\x00" * 100, "text/plain"),
        (b"\x81\xa1a\x01", "application/msgpack"),
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"a":\n1}', "application/json"),
        (b'{"a":\r1}', "application/json"),
        (b" 1", "application/json"),
        (b"1\n", "application/json"),
        (b'"\xff"', "application/json"),
        (b"[NaN]", "application/json"),
        (b'{"a":1,"a":2}', "application/json"),
        (b'{"a": 1, "\\u0061": 2}', "application/json"),
        (b'"\\ud800"', "application/json"),
        (b"9" * 5000, "application/json"),
        (b"[" * 65 + b"]" * 65, "application/json"),
        (b"[" * 50_000, "application/json"),
    ],
)
def test_what_cannot_stand_raw_is_base64_and_comes_back(body: bytes, content_type: str) -> None:
    envelope = Envelope("p", "a", body, {"content-type": content_type})
    line = jsonl.encode(envelope)
    assert "body_base64" in json.loads(line)
    record = jsonl.decode(line, LIMIT)
    assert (record.envelope(), record.body_base64, record.body) == (envelope, body, None)


def test_an_event_without_content_type_comes_back_without_one() -> None:
    envelope = Envelope("p", "a", b"1")
    assert jsonl.decode(jsonl.encode(envelope), LIMIT).envelope() == envelope


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_bodies = st.builds(
    lambda value, ascii_, indent: json.dumps(value, ensure_ascii=ascii_, indent=indent).encode(),
    json_values,
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)
content_types = st.sampled_from(
    [
        "application/json",
        "APPLICATION/JSON",
        "text/plain; charset=utf-8",
        "a/msgpack",
        "",
        "application/b+json",
    ]
)


@given(
    body=json_bodies | st.binary() | (st.text() | st.text("\x00\x1f\x7f")).map(str.encode),
    content_type=content_types | st.none(),
    headers=st.dictionaries(st.text(), st.text(), max_size=3),
    profile=st.text(),
    routing_key=st.text(),
)
def test_every_event_round_trips(
    body: bytes, content_type: str | None, headers: dict[str, str], profile: str, routing_key: str
) -> None:
    if content_type is not None:
        headers = {**headers, "content-type": content_type}
    envelope = Envelope(profile, routing_key, body, headers)
    line = jsonl.encode(envelope)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert jsonl.decode(line, LIMIT).envelope() == envelope
    assert jsonl.decode(line[:-1], LIMIT).envelope() == envelope


@given(st.binary() | st.text('{}[]",:\\ab1 ').map(str.encode))
def test_foreign_bytes_are_read_or_refused_and_never_crash(line: bytes) -> None:
    record, problem = None, None
    try:
        record = jsonl.decode(line, LIMIT)
    except errors.PayloadError as exc:
        problem = str(exc)
    assert (record is None) != (problem is None)
    assert "\n" not in (problem or "")


def test_a_line_by_hand_has_defaults_and_any_order() -> None:
    record = jsonl.decode(b' { "body" : {"id": 1.50 } , "routing_key" : "x" } \r\n', LIMIT)
    assert record == jsonl.Record(
        routing_key="x", profile="default", headers=JSON_HEADERS, body={"id": 1.5}, raw=b'{"id": 1.50 }'
    )


def test_a_line_without_body_has_none_and_null_is_a_body() -> None:
    assert jsonl.decode(b"{}", LIMIT).raw is None
    assert jsonl.decode(b"{}", LIMIT).headers == {}
    assert jsonl.decode(b'{"body":null}', LIMIT).raw == b"null"


def test_a_content_type_in_capitals_counts() -> None:
    record = jsonl.decode(b'{"headers":{"Content-Type":"text/plain"},"body":"x"}', LIMIT)
    assert (record.headers, record.raw) == ({"content-type": "text/plain"}, b"x")


def test_extra_keys_are_appended_and_dead_is_read_back() -> None:
    line = jsonl.encode(Envelope("p", "a", b"1", JSON_HEADERS), {"dead": {"reason": "no"}})
    assert line == b'{"routing_key":"a","profile":"p","body":1,"dead":{"reason":"no"}}\n'
    assert jsonl.decode(line, LIMIT).dead == {"reason": "no"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "the line is empty"),
        (b" \n", "the line is empty"),
        (b'{"body":1', "the line is not valid JSON: expecting ',' delimiter at line 1 column 10"),
        (b"{'body':1}", "expecting property name enclosed in double quotes at line 1 column 2"),
        (b'{"body":1} x', "extra data at line 1 column 12"),
        (b'\xef\xbb\xbf{"body":1}', "byte order mark"),
        (b'{"body":"\xff"}', "the line is not UTF-8: invalid start byte at byte 9"),
        (b"[1]", "an event is a JSON object"),
        (b"3", "an event is a JSON object"),
        (b'{"bdy":1}', "unknown key 'bdy'; did you mean 'body'?"),
        (b'{"accepted_at":1}', "unknown key 'accepted_at'; known: body, body_base64"),
        (b'{"routing_key":1}', "the key 'routing_key' has a wrong type: Expected `str`, got `int`"),
        (b'{"profile":null}', "the key 'profile' has a wrong type"),
        (b'{"headers":{"a":1}}', "the key 'headers[...]' has a wrong type"),
        (b'{"dead":[]}', "the key 'dead' has a wrong type"),
        (b'{"body_base64":"?"}', "'body_base64' is no base64"),
        (b'{"body":1,"body_base64":"AA=="}', "both 'body' and 'body_base64'"),
        (b'{"body":1,"body":1}', "the key 'body' stands twice"),
        (b'{"body":{"a":1,"\\u0061":1}}', "the key 'a' stands twice"),
        (b'{"headers":{"a":"1","a":"1"}}', "the key 'a' stands twice"),
        (b'{"body":[NaN]}', "NaN is no JSON number at line 1 column 10"),
        (b'{"body":-Infinity}', "-Infinity is no JSON number"),
        (b'{"body":' + b"9" * 5000 + b"}", "an integer of more than 4,300 digits"),
        (b'{"body":1e999}', "a float out of range"),
        (b'{"body":"\\ud800"}', "a string with a lone surrogate"),
        (b'{"body":"\\udc00x"}', "a string with a lone surrogate"),
        (b'{"headers":{"content-type":"text/plain"},"body":1}', "takes a JSON string as 'body'"),
        (b'{"headers":{"content-type":"application/msgpack"},"body":1}', "takes 'body_base64'"),
    ],
)
def test_what_is_no_event_is_refused_in_a_sentence(line: bytes, sentence: str) -> None:
    with pytest.raises(errors.InvalidPayload) as caught:
        jsonl.decode(line, LIMIT)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_body_may_nest_64_levels_and_no_more(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def line(depth: int) -> bytes:
        return b'{"body":' + opening * depth + b"1" + closing * depth + b"}"

    assert jsonl.decode(line(64), LIMIT).raw is not None
    for depth in (65, 10_000):
        with pytest.raises(errors.PayloadTooDeep):
            jsonl.decode(line(depth), LIMIT)


def test_brackets_in_strings_are_no_depth() -> None:
    assert jsonl.decode(b'{"body":"' + b'[{\\"' * 500 + b'"}', LIMIT).body == '[{"' * 500


def test_a_body_over_the_limit_and_a_line_over_the_limit_are_too_large() -> None:
    with pytest.raises(errors.PayloadTooLarge) as caught:
        jsonl.decode(b'{"body":"12345678"}', max_body=9)
    assert caught.value.size == 10
    assert jsonl.decode(b'{"body":"1234567"}', max_body=9).body == "1234567"
    with pytest.raises(errors.PayloadTooLarge):
        jsonl.decode(b'{"body_base64":"AAAA"}', max_body=2)
    with pytest.raises(errors.PayloadTooLarge):
        jsonl.decode(b"x" * (jsonl.max_line(10) + 1), max_body=10)


def test_no_limit_is_a_limit_of_zero() -> None:
    body = b'"' + b"x" * 2_000_000 + b'"'
    assert jsonl.decode(b'{"body":' + body + b"}", max_body=0).raw == body


@pytest.mark.parametrize("body", [b"\xff" * 1000, b"\x00" * 1000, "ü\n".encode() * 333])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/octet-stream"])
def test_what_was_written_fits_the_line_limit(content_type: Any, body: bytes) -> None:
    line = jsonl.encode(Envelope("p", "a", body, {"content-type": content_type}))
    assert len(line) - 200 <= len(body) * 4 // 3
    assert jsonl.decode(line, max_body=1000).raw == body


def test_a_lone_surrogate_in_a_key_is_refused_when_written() -> None:
    with pytest.raises(errors.InvalidPayload, match="surrogate"):
        jsonl.encode(Envelope("p", "\ud800", b"1", JSON_HEADERS))
