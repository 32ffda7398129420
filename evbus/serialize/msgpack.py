from evbus.engine.codec import msgpack as _msgpack


def __init__(hub):
    """Declare the content type of what this plugin writes, and the plain function behind ``apply``."""
    # Kept where POP leaves it when it rebuilds the room.
    hub.serialize.msgpack.CONTENT_TYPE = vars(hub.serialize).get("MSGPACK_TYPE", "application/msgpack")
    hub.serialize.msgpack.ENGINE = _msgpack.apply


def configure(hub, settings):
    """Take the option ``msgpack_content_type``, which receivers know MessagePack by; all of them are read."""
    hub.serialize.MSGPACK_TYPE = hub.serialize.msgpack.CONTENT_TYPE = settings.msgpack_content_type


def apply(hub, data) -> bytes:
    """Return ``data`` as MessagePack.

    A datetime with a time zone becomes a timestamp (extension type -1), one without an ISO 8601 string;
    bytes stay bytes. What MessagePack has no form for is treated as the plugin ``json`` treats it.

    :raises SerializeError: ``path`` leads to the value that cannot be encoded; so do integers of more
        than 64 bits, and keys that could not be read back, such as tuples.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    """
    return _msgpack.apply(data)


def load(hub, data: bytes):
    """Return the value that the MessagePack bytes ``data`` stand for.

    Keys of maps may be anything hashable; timestamps become datetimes in UTC, to the microsecond.

    :raises InvalidPayload: broken or surplus bytes, an unknown extension type, a string that is no UTF-8.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    :raises ContentDisallowed: the bytes are a Python pickle.
    """
    return _msgpack.load(data)
