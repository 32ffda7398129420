from evbus.engine.codec import content as _content
from evbus.engine.codec import text as _text


def __init__(hub):
    """Declare ``hub.serialize.PLUGIN``, the plugin that new events are encoded with; default ``"json"``.

    A value that an application has set is kept: POP runs this again when it rebuilds the room.
    """
    # Not hasattr: an unknown attribute makes POP load every plugin in search of it.
    if "PLUGIN" not in vars(hub.serialize):
        hub.serialize.PLUGIN = "json"
    if "JSON_TYPES" not in vars(hub.serialize):
        hub.serialize.JSON_TYPES = ()
    hub.serialize.init.CONTENT_TYPE = "text/plain; charset=utf-8"
    hub.serialize.init.ENGINE = _text.apply


def configure(hub, settings):
    """Take the option ``json_types``: content types that are read as JSON, beside ``application/json``.

    :raises SettingsError: one of them is no content type.
    """
    hub.serialize.JSON_TYPES = _content.json_types(settings.json_types or ())


def apply(hub, data) -> bytes:
    """Return ``str(data)`` as UTF-8; bytes pass unchanged.

    :raises SerializeError: ``str()`` fails, or the text holds a lone surrogate.
    """
    return _text.apply(data)


def load(hub, data: bytes) -> str:
    """Return the text that the bytes are in UTF-8.

    :raises InvalidPayload: they are no UTF-8; the message names the position.
    """
    return _text.load(data)


def by_content_type(hub, content_type: str) -> str:
    """Return the name of the plugin that reads bodies of this content type.

    Parameters (``; charset=...``) and case do not matter. A body without a content type is read as the bus
    writes its own, by default as JSON. Of ``application/*+json`` those that the option ``json_types`` names
    are read as JSON: it says how the body is written, and not that it is the event itself.

    :raises ContentDisallowed: a type whose decoding could run code, such as pickle.
    :raises InvalidPayload: no plugin reads this type; the message lists those that are read.
    """
    types = {plugin.__name__: getattr(plugin, "CONTENT_TYPE", "") for plugin in hub.serialize}
    own = hub.evbus.init.serialize_plugin() if "evbus" in hub._subs else hub.serialize.PLUGIN
    return _content.choose(content_type, types, own, hub.serialize.JSON_TYPES)
