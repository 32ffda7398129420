"""Plain text: ``str()`` on the way out, UTF-8 on the way in."""

from __future__ import annotations

from evbus.engine.codec.content import as_bytes, refuse_pickle
from evbus.errors import InvalidPayload, SerializeError

__all__ = ["apply", "load"]


def apply(data: object) -> bytes:
    """Return ``str(data)`` as UTF-8; bytes pass unchanged.

    :raises SerializeError: ``str()`` fails, or the text holds a lone surrogate.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    try:
        return str(data).encode()
    except UnicodeEncodeError as exc:
        reason = f"a lone surrogate at position {exc.start}, which UTF-8 cannot carry"
        raise SerializeError(reason, plugin="text") from None
    except Exception as exc:
        reason = f"str() of {type(data).__name__} raised {type(exc).__name__}"
        raise SerializeError(reason, plugin="text") from exc


def load(data: bytes) -> str:
    """Return the text that ``data`` is in UTF-8.

    :raises InvalidPayload: it is no UTF-8; the message names the position.
    :raises ContentDisallowed: it is a Python pickle.
    """
    raw = as_bytes(data)
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        refuse_pickle(raw)
        raise InvalidPayload(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from None
