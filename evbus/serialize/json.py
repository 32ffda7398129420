from evbus.serialize import _json


def __init__(hub):
    """Declare the content type of what this plugin writes, and the plain functions behind it."""
    hub.serialize.json.CONTENT_TYPE = "application/json"
    hub.serialize.json.ENGINE = _json.apply
    hub.serialize.json.TYPED = _json.typed
    hub.serialize.json.EXACT = _json.exact_load


def apply(hub, data) -> bytes:
    """Return ``data`` as compact JSON in UTF-8 (RFC 8259).

    Sets become sorted lists, mappings objects, other iterables lists, and what JSON has no form for its
    ``repr``. NaN and infinities are written as ``NaN`` and ``Infinity``, which is not strict JSON.
    Unlike pop-evbus, dates and times are written in ISO 8601, bytes in base64, enums as their value,
    dataclasses, attrs classes, Structs and pydantic models as objects.

    :raises SerializeError: ``path`` leads to the value that cannot be encoded.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    """
    return _json.apply(data)


def load(hub, data: bytes):
    """Return the value that the JSON text ``data`` stands for; ``NaN`` and ``Infinity`` are accepted.

    :raises InvalidPayload: no JSON, no UTF-8, a key twice in one object, an integer of more than 4,300
        digits, a float out of range, a lone surrogate; the message has the reason and the place.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    :raises ContentDisallowed: the bytes are a Python pickle.
    """
    return _json.load(data)
