"""Content types: which plugin reads which, and which are never read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from evbus.engine.codec.wrapped import essence, is_wrapped
from evbus.engine.kit.redact import one_line
from evbus.errors import ContentDisallowed, InvalidPayload, SettingsError

__all__ = ["as_bytes", "choose", "json_types", "refuse_pickle"]

# Decoding these can run code of the sender's choice.
_UNSAFE_PARTS = ("pickle", "marshal", "java-serialized")
_UNSAFE = frozenset({"application/x-python-serialize", "application/x-php-serialized"})

_ALIASES = {
    "application/vnd.msgpack": "application/msgpack",
    "application/x-msgpack": "application/msgpack",
    "text/json": "application/json",
}


# RFC 9110, section 8.3.1, without the star of ranges.
_TYPE = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]+/[a-z0-9!#$%&'+.^_`|~-]+")


def json_types(names: Collection[str]) -> tuple[str, ...]:
    """Return the types that the option ``json_types`` names, without their parameters.

    :raises SettingsError: one of them is no type, or a pattern of types.
    """
    types = tuple(essence(name) for name in names)
    for index, name in enumerate(types):
        if not _TYPE.fullmatch(name):
            raise SettingsError(
                f"evbus.json_types[{index}]: {one_line(repr(name), 100)} is no content type; each is named "
                "by itself, such as application/vnd.shop+json"
            )
    return types


def choose(
    content_type: str, types: Mapping[str, str], own: str = "json", json_types: Collection[str] = ()
) -> str:
    """Return the name of the plugin for ``content_type``.

    :param types: the content type that each plugin writes, by the plugin's name; ``""`` for none.
    :param own: the plugin for a body without a content type.
    :param json_types: further types that are read as JSON.
    :raises ContentDisallowed: a type whose decoding could run code.
    :raises InvalidPayload: a type that no plugin reads.
    """
    wanted = essence(content_type)
    if not wanted:
        return own if own in types else "json"
    if wanted in _UNSAFE or any(part in wanted for part in _UNSAFE_PARTS):
        raise ContentDisallowed(
            f"a body of the content type {wanted!r} is never decoded, because decoding it can run code; "
            "send JSON or MessagePack"
        )
    known = {essence(written): name for name, written in types.items() if written}
    alike = {_ALIASES.get(written, written): name for written, name in known.items()}
    found = known.get(wanted) or alike.get(_ALIASES.get(wanted, wanted))
    if found is not None:
        return found
    if wanted in json_types and "application/json" in known:
        return known["application/json"]
    said = f"the content type {one_line(wanted, 100)!r}"
    raise InvalidPayload(f"no plugin reads {said}; known: {', '.join(sorted(known))}{_hint(wanted)}")


def _hint(wanted: str) -> str:
    """Return a hint for the error about a content type that is written in JSON, or ``""``."""
    if is_wrapped(wanted):
        return "; it is a document around an event, and not the event itself"
    if wanted.endswith("+json"):
        return (
            ". That it ends with +json says that it is written in JSON, and not that it is the event itself; "
            "if it is, name it in the option json_types"
        )
    return ""


def refuse_pickle(data: bytes) -> None:
    """Raise ContentDisallowed when ``data`` is a pickle of protocol 2 or later.

    Called once the bytes have turned out not to be what they were said to be.
    """
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and data[-1:] == b".":
        raise ContentDisallowed(
            "the body is a Python pickle, which is never decoded because that can run code; "
            "send JSON or MessagePack"
        )


def as_bytes(data: bytes | bytearray | memoryview | str) -> bytes:
    """Return the body as bytes; text is taken as UTF-8.

    :raises InvalidPayload: it is neither bytes nor text.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        # A lone surrogate becomes invalid UTF-8, which the reader then names with its place.
        return data.encode("utf-8", "surrogatepass")
    raise InvalidPayload(f"a body to be read is bytes, not {type(data).__name__}")
