__optional__ = True

#: The module that does the work. It imports OpenTelemetry, which takes a while, and so comes with the options
#: that ask for this plugin.
_trace = None


def configure(hub, settings):
    """Take no options, but OpenTelemetry if it is installed."""
    global _trace  # noqa: PLW0603 - for each event the hub would be a longer way
    from evbus.engine.stages import trace as _trace


def send(hub, envelope):
    """Give the event a ``traceparent`` header (W3C), ``tracestate`` and ``baggage`` if there are any.

    Where OpenTelemetry is installed and set up there is a span for the sending. The trace is that of the
    current OpenTelemetry span when there is one, else the one that this context is in: that of the event
    being handled, or one made for the first event put here. A valid ``traceparent`` that the caller has set
    stays.
    """
    if _trace.recording():
        # Messages in process have the profile "".
        lanes = hub.evbus.ENGINE.lanes_of(envelope.profile) if envelope.profile else ()
        _trace.sending(envelope, _trace.system(lanes))
    else:
        _trace.send(envelope.headers)


async def handle(hub, envelope, call_next):
    """Run the handler inside the event's trace: what it puts, and its spans, belong to the same trace.

    Where OpenTelemetry is installed and set up there is a span for it, which says whether it failed, and why.
    """
    lanes = hub.evbus.ENGINE.lanes_named(envelope.profile) if _trace.recording() else ()
    with _trace.handling(envelope, _trace.system(lanes)):
        return await call_next(envelope)
