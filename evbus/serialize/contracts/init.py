"""A serialize plugin turns a body into bytes, and bytes from outside into a body.

A plugin is one file with the two functions below. It says which content type it writes on the hub::

    def __init__(hub):
        hub.serialize.yaml.CONTENT_TYPE = "application/yaml"

``hub.serialize.PLUGIN`` names the plugin that new events are encoded with. A plugin that cares for the
microsecond may also set ``ENGINE``: a function of ``data`` alone that does what ``apply`` does. The bus
calls it in place of ``apply`` unless a contract wants to see the calls.
"""


def sig_apply(hub, data):
    """Return ``data`` as bytes.

    Called in the context of whoever puts the event, before anything is queued. It must not keep or
    change ``data``, and should consume an iterator in it once at most. What cannot be encoded raises
    ``evbus.errors.SerializeError`` with the path to the offending value (``$.order.items[3]``), or
    ``PayloadTooDeep``.
    """


def sig_load(hub, data):
    """Return the body that the bytes ``data`` stand for.

    The bytes come from outside and may be hostile: nothing they hold is ever executed or imported, and
    reading them costs no more than their length suggests. Raises ``evbus.errors.InvalidPayload`` with
    the reason and the place, ``PayloadTooDeep``, or ``ContentDisallowed``.
    """
