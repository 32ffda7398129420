from evbus.pipeline import _trace

__optional__ = True


def send(hub, envelope):
    """Give the event a ``traceparent`` header (W3C Trace Context), and ``tracestate`` if there is one.

    The trace is that of the current OpenTelemetry span when there is one, else the one that this
    context is in: that of the event being handled, or one made for the first event put here. A valid
    ``traceparent`` that the caller has set stays.
    """
    _trace.send(envelope.headers)


async def handle(hub, envelope, call_next):
    """Run the handler inside the event's trace: what it puts, and its spans, belong to the same trace.

    Where OpenTelemetry is installed there is a span for it, which says whether it failed, and why.
    """
    with _trace.handling(envelope):
        return await call_next(envelope)
