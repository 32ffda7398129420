from evbus.engine.codec import wrapped as _wrapped
from evbus.engine.stages import stamp as _stamp

__optional__ = True


def __init__(hub):
    """Declare ``hub.pipeline.STAMP``: how this hub's events are stamped, known from the first one on."""
    hub.pipeline.STAMP = None


def configure(hub, settings):
    """Take the options ``event_source`` and ``event_mode``.

    :raises SettingsError: the source is no URI reference.
    """
    if settings.event_source:
        _stamp.check_source(settings.event_source)
    source = settings.event_source or _stamp.default_source()
    hub.pipeline.STAMP = _stamp.How(source, settings.event_mode == "structured")


def send(hub, envelope):
    """Say in the headers which event this is, when and where it arose, and what it is about.

    The attributes of CloudEvents 1.0 with the prefix ``ce-``: ``ce-specversion``, ``ce-id`` (unique),
    ``ce-time`` (UTC, microseconds), ``ce-source`` (the option ``event_source``, by default
    ``/<host>/<program>``) and ``ce-type`` (the routing key, else the profile). What the caller has set stays.

    With the option ``event_mode: structured`` the body becomes a CloudEvent in JSON that holds them.
    """
    how = hub.pipeline.STAMP
    if how is None:
        options = hub.OPT.get("evbus") or {}
        how = hub.pipeline.STAMP = _stamp.How(options.get("event_source") or _stamp.default_source())
    _stamp.stamp(envelope, how.source)
    # Messages in process have the profile "", and no body.
    if how.structured and envelope.profile:
        _wrapped.wrap(envelope)
