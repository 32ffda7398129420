"""Content types: which plugin reads which, and which are never read."""

from __future__ import annotations

from collections.abc import Mapping

from evbus.errors import ContentDisallowed, InvalidPayload

__all__ = ["as_bytes", "choose", "essence", "refuse_pickle"]

# Decoding these can run code of the sender's choice.
_UNSAFE_PARTS = ("pickle", "marshal", "java-serialized")
_UNSAFE = frozenset({"application/x-python-serialize", "application/x-php-serialized"})

_ALIASES = {
    "application/vnd.msgpack": "application/msgpack",
    "application/x-msgpack": "application/msgpack",
    "text/json": "application/json",
}


def essence(content_type: str) -> str:
    """Return ``type/subtype`` in small letters, without parameters (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def choose(content_type: str, types: Mapping[str, str]) -> str:
    """Return the name of the plugin for ``content_type``.

    :param types: the content type that each plugin writes, by the plugin's name; ``""`` for none.
    :raises ContentDisallowed: a type whose decoding could run code.
    :raises InvalidPayload: a type that no plugin reads.
    """
    wanted = essence(content_type)
    if wanted in _UNSAFE or any(part in wanted for part in _UNSAFE_PARTS):
        raise ContentDisallowed(
            f"a body of the content type {wanted!r} is never decoded, because decoding it can run code; "
            "send JSON or MessagePack"
        )
    known = {essence(written): name for name, written in types.items() if written}
    for candidate in (wanted, _ALIASES.get(wanted)):
        if candidate in known:
            return known[candidate]
    if wanted.startswith("application/") and wanted.endswith("+json") and "application/json" in known:
        return known["application/json"]
    said = f"the content type {wanted!r}" if wanted else "a body without a content type"
    raise InvalidPayload(f"no plugin reads {said}; known: {', '.join(sorted(known))}")


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
