"""A serialize plugin turns a body into bytes, and bytes from outside into a body.

A plugin is one file with two plain functions:

``def apply(hub, data)``
    Returns ``data`` as bytes. Called in the context of whoever puts the event, before anything is queued. It
    must not keep or change ``data``, and should consume an iterator in it once at most. What cannot be
    encoded raises ``evbus.errors.SerializeError`` with the path to the offending value
    (``$.order.items[3]``), or ``PayloadTooDeep``.
``def load(hub, data)``
    Returns the body that the bytes ``data`` stand for. They come from outside and may be hostile: nothing
    they hold is ever executed or imported, and reading them costs no more than their length suggests. Raises
    ``evbus.errors.InvalidPayload`` with the reason and the place, ``PayloadTooDeep``, or
    ``ContentDisallowed``.

It says which content type it writes on the hub::

    def __init__(hub):
        hub.serialize.yaml.CONTENT_TYPE = "application/yaml"

``hub.serialize.PLUGIN`` names the plugin that new events are encoded with. A plugin that cares for the
microsecond may also set ``ENGINE``: a function of ``data`` alone that does what ``apply`` does. The bus
calls it in place of ``apply`` unless a contract wants to see the calls.
"""
