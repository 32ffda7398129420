from evbus.pipeline import _stamp

__optional__ = True


def __init__(hub):
    """Declare ``hub.pipeline.SOURCE``: where this hub's events come from, known from the first one on."""
    hub.pipeline.SOURCE = None


def send(hub, envelope):
    """Say in the headers which event this is, when and where it arose, and what it is about.

    The attributes of CloudEvents 1.0 with the prefix ``ce-``, as its HTTP binding writes them:
    ``ce-specversion``, ``ce-id`` (unique), ``ce-time`` (UTC, microseconds), ``ce-source`` (the option
    ``event_source``, by default ``/<host>/<program>``) and ``ce-type`` (the routing key, else the
    profile). What the caller has set stays.
    """
    source = hub.pipeline.SOURCE
    if source is None:
        options = hub.OPT.get("evbus") or {}
        source = hub.pipeline.SOURCE = options.get("event_source") or _stamp.default_source()
    _stamp.stamp(envelope, source)
