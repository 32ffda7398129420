import logging

from evbus.engine.kit import redact as _redact
from evbus.engine.stages import once as _once
from evbus.engine.stages import receiver as _receiver

__optional__ = True

log = logging.getLogger("evbus.pipeline.dedupe")


def __init__(hub):
    """Declare ``hub.pipeline.DEDUPE``: what was handled; ``dropped`` counts what was not handled again."""
    hub.pipeline.DEDUPE = None


def configure(hub, settings):
    """Take the options ``dedupe_window`` (seconds) and ``dedupe_limit`` (ids)."""
    hub.pipeline.DEDUPE = _once.Once(_once.Memory(settings.dedupe_window, settings.dedupe_limit))


async def handle(hub, envelope, call_next):
    """Handle an event once, however often it is delivered; what was handled before returns None.

    An event is known by its header ``ce-id``, which the plugin ``stamp`` sets, else by ``message-id``; one
    without either is always handled. It is remembered when its handler has succeeded. A second delivery
    waits while the first is being handled, and is handled itself when that fails. Each listener handles it
    once. Messages in process pass: they are delivered once.
    """
    headers = envelope.headers
    event_id = headers.get("ce-id") or headers.get("message-id")
    receiver = _receiver.RECEIVER.get()
    if not event_id or not (envelope.profile or receiver):
        return await call_next(envelope)
    once = hub.pipeline.DEDUPE
    result = await once.run((receiver, event_id), lambda: call_next(envelope))
    if result is _once.DUPLICATE:
        log.debug("the event %s was handled before", _redact.one_line(event_id, 100))
        return None
    return result
