"""Reads the lines of an input for ``evbus run``: events, the JSON of others, or plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from evbus.engine.codec import jsonl
from evbus.engine.codec.wrapped import cloudevent
from evbus.engine.kit import strictjson
from evbus.errors import ConfigError, InvalidPayload, PayloadError, PayloadTooLarge, nearest
from evbus.types import CONTENT_TYPE

__all__ = ["FORMATS", "Form", "Joiner", "form_of"]

FORMATS = ("events", "lines", "json")

_raw_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


#: The first line of JSON that goes on in the next one, as those write it that make it readable.
_OPENINGS = frozenset({b"{", b"[", b"[{"})
#: A text of JSON, which ends in its line.
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


class Joiner:
    """Puts JSON together that stands over several lines, as ``jq .`` and ``json.dumps(indent=2)`` write it.

    It begins with a line that has an opening bracket and nothing else, and ends with the closing one.

    :param longest: bytes; of what is longer only so much is kept as shows that it is longer. 0 for no limit.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._first = self._depth = self._size = 0
        self._parts: list[bytes] = []
        # One line, as destinations write it; what is in no text is no part of the value.
        self._between = b" "

    def add(self, number: int, line: bytes) -> list[tuple[int, bytes]]:
        """Return the texts that are whole with this line, each with the number of its first line."""
        if not self._parts:
            if line.strip() not in _OPENINGS:
                return [(number, line)]
            self._first = number
        elif len(self._parts) == 1 and self._parts[0][-1:] == b"{" and line.strip()[:1] not in b'"}':
            # No object goes on like this: it was a bad line.
            return [*self.rest(), *self.add(number, line)]
        if not self._longest or self._size <= self._longest:
            self._parts.append(line.strip())
        self._size += len(line) + 1
        plain = _TEXT.sub(b"", line)
        if b'"' in plain:
            self._between = b"\n"  # a text does not end in its line, which is no JSON, and is not made any
        self._depth += sum(map(plain.count, (b"{", b"["))) - sum(map(plain.count, (b"}", b"]")))
        return [] if self._depth > 0 else self.rest()

    def rest(self) -> list[tuple[int, bytes]]:
        """Return the text that is not whole, if there is one."""
        found = [(self._first, self._between.join(self._parts))] if self._parts else []
        self._depth = self._size = 0
        self._parts, self._between = [], b" "
        return found


class Form(NamedTuple):
    """The format of lines, and the names of their events where they do not say them.

    :ivar format: ``events``: an event of :mod:`evbus.engine.codec.jsonl` or a CloudEvent in JSON, or a JSON
        array of them; ``lines``: the line is the body; ``json``: its JSON is.
    :ivar body_key: of ``json``: the body is the value of this key, and all else is left out.
    """

    format: str = "events"
    routing_key: str = ""
    profile: str = "default"
    body_key: str = ""

    def records(self, line: bytes, max_body: int) -> list[jsonl.Record]:
        """Return the events of a line.

        :raises PayloadError: it holds something else, or one of them is too large; says which of a batch.
        """
        if self.format == "lines":
            return [self._text(line, max_body)]
        if self.format == "json":
            return [self._json(line, max_body)]
        if line.lstrip()[:1] != b"[":
            return [self._event(line, max_body)]
        return _each(line, max_body, lambda part: self._event(part, max_body))

    def _event(self, line: bytes, max_body: int) -> jsonl.Record:
        if b'"specversion"' in line and _is_cloudevent(line):
            return self._cloudevent(line, max_body)
        record = jsonl.decode(line, max_body, profile=self.profile)
        if self.routing_key and not record.routing_key:
            return msgspec.structs.replace(record, routing_key=self.routing_key)
        return record

    def _cloudevent(self, line: bytes, max_body: int) -> jsonl.Record:
        """Return a structured CloudEvent as an event of its type (JSON Event Format 1.0.2)."""
        longest = jsonl.max_line(max_body)
        if longest and len(line) > longest:
            raise PayloadTooLarge(len(line), max_body)
        headers, raw = cloudevent(line)
        plain = headers[CONTENT_TYPE] == jsonl.JSON and raw
        record = self._record(raw, headers[CONTENT_TYPE], max_body, strictjson.load(raw) if plain else None)
        key = headers["ce-type"]
        return msgspec.structs.replace(record, routing_key=key, headers=headers, raw=raw or None)

    def _text(self, line: bytes, max_body: int) -> jsonl.Record:
        body = line.removesuffix(b"\r")
        try:
            body.decode()
        except UnicodeDecodeError:
            return self._record(body, "application/octet-stream", max_body)
        return self._record(body, "text/plain; charset=utf-8", max_body)

    def _json(self, line: bytes, max_body: int) -> jsonl.Record:
        longest = jsonl.max_line(max_body)
        if longest and len(line) > longest:
            raise PayloadTooLarge(len(line), max_body)
        value = strictjson.load(line, max_depth=strictjson.MAX_DEPTH + bool(self.body_key), what="the line")
        raw = line.strip()
        if self.body_key:
            if not isinstance(value, dict):
                raise InvalidPayload(
                    f"the line is no JSON object, in which --body-key finds {self.body_key!r}"
                )
            if self.body_key not in value:
                raise InvalidPayload(
                    f"the line has no key {self.body_key!r} (--body-key){nearest(self.body_key, value)}"
                )
            value, raw = value[self.body_key], bytes(_raw_values(line)[self.body_key])
        return self._record(raw, jsonl.JSON, max_body, value)

    def _record(self, raw: bytes, content_type: str, max_body: int, value: Any = None) -> jsonl.Record:
        if 0 < max_body < len(raw):
            raise PayloadTooLarge(len(raw), max_body)
        return jsonl.Record(
            routing_key=self.routing_key,
            profile=self.profile,
            headers={CONTENT_TYPE: content_type},
            body=value,
            raw=raw,
        )


def _is_cloudevent(line: bytes) -> bool:
    """Return whether a line is a structured CloudEvent: no event of ours has a key of that name."""
    try:
        return "specversion" in _raw_values(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # what it is instead is said by who reads events


def _each(line: bytes, max_body: int, read: Callable[[bytes], jsonl.Record]) -> list[jsonl.Record]:
    """Return the events of a JSON array; all of them, or none."""
    longest = jsonl.max_line(max_body)
    if longest and len(line) > longest:
        raise PayloadTooLarge(len(line), max_body)
    try:
        parts = _raw_list(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidPayload(f"the line is no JSON array of events: {exc}") from None
    found = []
    for number, part in enumerate(parts, 1):
        try:
            found.append(read(bytes(part)))
        except PayloadError as exc:
            raise InvalidPayload(f"event {number} of {len(parts)}: {exc}; none of them is taken") from None
    return found


def form_of(options: Mapping[str, Any]) -> Form:
    """Return the form of a subcommand's input, by its options.

    :raises ConfigError: there is no such format, or an option goes with another one.
    """
    chosen = options.get("format") or "events"
    if chosen not in FORMATS:
        raise ConfigError(f"--format {chosen!r}: there is no such format{nearest(chosen, FORMATS)}")
    body_key = options.get("body_key") or ""
    if body_key and chosen != "json":
        raise ConfigError("--body-key names a key of the JSON of others; say --format json as well")
    return Form(chosen, options.get("routing_key") or "", options.get("profile") or "default", body_key)
