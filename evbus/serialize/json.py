from evbus.engine.codec import json as _json


def __init__(hub):
    """Declare the content type of what this plugin writes, and the plain functions behind it."""
    hub.serialize.json.CONTENT_TYPE = "application/json"
    # Kept where POP leaves it when it rebuilds the room.
    hub.serialize.json.ENGINE = vars(hub.serialize).get("JSON_ENGINE", _json.apply)
    hub.serialize.json.TYPED = _json.typed
    hub.serialize.json.OWN = _json.own
    hub.serialize.json.EXACT = _json.exact_load


def configure(hub, settings):
    """Take the option ``json_fallback``: ``repr`` writes what has no form as its ``repr``."""
    engine = _json.apply_or_repr if settings.json_fallback == "repr" else _json.apply
    hub.serialize.JSON_ENGINE = hub.serialize.json.ENGINE = engine


def apply(hub, data) -> bytes:
    """Return ``data`` as compact JSON in UTF-8 (RFC 8259).

    Sets become sorted lists, mappings objects, other iterables lists. NaN and infinities are written as
    ``NaN`` and ``Infinity``, which is not strict JSON. Unlike pop-evbus, dates and times are written in
    ISO 8601, bytes in base64, enums as their value, dataclasses, attrs classes, Structs and pydantic models
    as objects, numbers, paths and texts of other libraries as such; what has no form is an error, unless
    the option ``json_fallback`` is ``repr``.

    :raises SerializeError: ``path`` leads to the value that cannot be encoded, or to the second of two keys
        that are written alike.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    """
    return hub.serialize.json.ENGINE(data)


def load(hub, data: bytes):
    """Return the value that the JSON text ``data`` stands for; ``NaN`` and ``Infinity`` are accepted.

    :raises InvalidPayload: no JSON, no UTF-8, a key twice in one object, an integer of more than 4,300
        digits, a float out of range, a lone surrogate; the message has the reason and the place.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    :raises ContentDisallowed: the bytes are a Python pickle.
    """
    return _json.load(data)
