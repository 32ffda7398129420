"""W3C Trace Context, level 1, and W3C Baggage: their headers, and OpenTelemetry's spans.

Headers: ``traceparent`` (Trace Context, section 3.2), ``tracestate`` (section 3.3) and ``baggage`` (Baggage,
section 3). Spans: OpenTelemetry's semantic conventions for messaging, "Messaging spans".
"""

from __future__ import annotations

import importlib
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from evbus.types import Envelope
from evbus.version import version

__all__ = ["Trace", "handling", "inside", "parse", "recording", "send", "sending", "system"]

# Version ff is forbidden; a later version may append fields behind a hyphen, which are not understood.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


# The extra "otel"; None without it.
_otel = _optional("opentelemetry.trace")
_otel_context = _optional("opentelemetry.context")
_otel_baggage: Any = (
    None if _otel is None else _optional("opentelemetry.baggage.propagation").W3CBaggagePropagator()
)
# It stands for the tracer of whatever provider is set, be that later.
_tracer: Any = None if _otel is None else _otel.get_tracer("evbus", version)


class Trace(NamedTuple):
    """The trace that a context is in: its id, its flags, and what came with it.

    :ivar state: the header ``tracestate``.
    :ivar baggage: the header ``baggage``, where there is no OpenTelemetry to keep it.
    """

    trace_id: str
    flags: str
    state: str = ""
    baggage: str = ""


#: Characters of baggage that everybody has to pass on (W3C Baggage, section 3.3.2); more is dropped.
_MOST_BAGGAGE = 8192


# Where no OpenTelemetry span says which trace this is: one for all that is put in one context.
_current: ContextVar[Trace | None] = ContextVar("evbus_trace", default=None)

# Not the random module's own generator: an application that seeds it would repeat its ids.
_random = random.Random()  # noqa: S311 - ids have to be unique, not secret
os.register_at_fork(after_in_child=_random.seed)


def parse(traceparent: str | None) -> Trace | None:
    """Return the trace that a ``traceparent`` names, None when it is missing or invalid (section 3.2.2)."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None or (found[1] == "00" and found[5]):
        return None
    # Of the flags of a later version only the first, sampled, is known (section 3.2.2.5.1).
    return Trace(found[2], found[4] if found[1] == "00" else f"{int(found[4], 16) & 1:02x}")


def system(lanes: Iterable[Any]) -> str:
    """Return ``messaging.system`` of events that these lanes get, or whose profiles they come through.

    That is ``rabbitmq`` for the plugin ``amqp`` and else the name of the plugin, ``evbus`` for events of this
    process, and where there are several.
    """
    outside = {lane.key.plugin for lane in lanes} - {"internal"}
    plugin = outside.pop() if len(outside) == 1 else "evbus"
    return "rabbitmq" if plugin == "amqp" else plugin


def recording() -> bool:
    """Return whether OpenTelemetry is installed and told where spans go."""
    # By the public way each answer looks up a variable of the environment. Without this name spans are made
    # that are none, and headers come from send().
    return _otel is not None and getattr(_otel, "_TRACER_PROVIDER", _otel) is not None


def send(headers: MutableMapping[str, str]) -> None:
    """Set ``traceparent``, and ``tracestate`` if there is one, unless a valid ``traceparent`` is there.

    An invalid one is replaced, and its ``tracestate`` goes with it (section 3.2.2.6 and 3.3). ``baggage`` is
    that of this context, unless the headers have one.
    """
    # Empty where nothing is set up, and outside of everything.
    context = _otel is not None and _otel_context.get_current()
    if context:
        _pack(headers)
    given = headers.get("traceparent")
    if given is not None and _kept(given, headers):
        return
    if context and _from_span(headers, _otel.get_current_span()):
        return
    trace = _current.get()
    if trace is None:
        trace = _new()
        _current.set(trace)
    headers["traceparent"] = f"00-{trace[0]}-{_random.getrandbits(64) or 1:016x}-{trace[1]}"
    if trace[2]:
        headers["tracestate"] = trace[2]
    if trace[3]:
        headers.setdefault("baggage", trace[3])


def _new(baggage: str = "") -> Trace:
    # Sampled: whether to record was not decided here, and "not sampled" would tell the receivers' tracers to
    # record nothing.
    return Trace(f"{_random.getrandbits(128) or 1:032x}", "01", "", baggage)


def sending(envelope: Envelope, of_system: str) -> None:
    """Do as :func:`send`, with a span for the sending, of which the event's ``traceparent`` tells.

    The span has the kind PRODUCER. Where the caller has set a ``traceparent`` that stays: the span is linked
    to it, and has the kind CLIENT.
    """
    headers = envelope.headers
    _pack(headers)
    given = headers.get("traceparent")
    kept = _kept(given, headers)
    created = None if kept is None else _remote(given, kept, headers)
    span = _tracer.start_span(
        **_about("send", envelope, of_system),
        kind=_otel.SpanKind.PRODUCER if created is None else _otel.SpanKind.CLIENT,
        links=() if created is None else (_otel.Link(created),),
    )
    span.end()
    if created is None and not _from_span(headers, span):
        send(headers)


def _kept(given: str | None, headers: MutableMapping[str, str]) -> Trace | None:
    """Return the trace that the caller has set; forget the state of one that is none."""
    trace = parse(given)
    if trace is None and given is not None:
        headers.pop("tracestate", None)
    return trace


def _pack(headers: MutableMapping[str, str]) -> None:
    """Set ``baggage`` from OpenTelemetry's, unless it is there."""
    if "baggage" not in headers:
        _otel_baggage.inject(headers)


def _from_span(headers: MutableMapping[str, str], span: Any) -> bool:
    """Set the headers from an OpenTelemetry span; say whether it is one."""
    context = span.get_span_context()
    if not context.is_valid:
        return False
    headers["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return True


@contextmanager
def inside(headers: Mapping[str, str]) -> Iterator[Any]:
    """Put the context into the trace that ``headers`` name, and back where it was afterwards.

    Headers without a valid ``traceparent`` put it into none, so that events handled one after another
    by the same task do not end up in one trace. Their ``baggage`` is that of the context meanwhile.

    Gives what names the sender's span to OpenTelemetry, None without it or without such a span.
    """
    given = headers.get("traceparent")
    trace = parse(given)
    if trace is not None:
        trace = trace._replace(state=headers.get("tracestate", ""))
    baggage = headers.get("baggage", "")
    if baggage and _otel is None and len(baggage) <= _MOST_BAGGAGE:
        trace = _new(baggage) if trace is None else trace._replace(baggage=baggage)
    token = _current.set(trace)
    attached = sender = None
    if _otel is not None and (trace or baggage):
        context = _otel_context.get_current()
        if trace is not None:
            sender = _remote(given, trace, headers)
            context = _otel.set_span_in_context(_otel.NonRecordingSpan(sender), context)
        attached = _otel_context.attach(_otel_baggage.extract(headers, context) if baggage else context)
    try:
        yield sender
    finally:
        if attached is not None:
            _otel_context.detach(attached)
        _current.reset(token)


@contextmanager
def handling(envelope: Envelope, of_system: str) -> Iterator[None]:
    """Put the context into the trace of a received event, with a span of its own where OpenTelemetry is.

    The span has the kind CONSUMER, and the sender's span as its parent and as its link. An exception is
    recorded in it.
    """
    with inside(envelope.headers) as sender:
        if not recording():
            yield
            return
        with _tracer.start_as_current_span(
            **_about("process", envelope, of_system),
            kind=_otel.SpanKind.CONSUMER,
            links=() if sender is None else (_otel.Link(sender),),
        ) as span:
            try:
                yield
            except Exception as exc:
                kind = type(exc)
                place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
                span.set_attribute("error.type", place + kind.__qualname__)
                raise


def _about(operation: str, envelope: Envelope, of_system: str) -> dict[str, Any]:
    """Return the name and the attributes of a span."""
    about = {
        "messaging.system": of_system,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    destination = envelope.routing_key or envelope.profile
    if destination:
        about["messaging.destination.name"] = destination
    if of_system == "rabbitmq" and envelope.routing_key:
        about["messaging.rabbitmq.destination.routing_key"] = envelope.routing_key
    event_id = envelope.headers.get("ce-id") or envelope.headers.get("message-id")
    if event_id:
        about["messaging.message.id"] = event_id
    return {"name": f"{operation} {destination}".rstrip(), "attributes": about}


def _remote(traceparent: Any, trace: Any, headers: Mapping[str, str]) -> Any:
    """Return OpenTelemetry's name for the span that a valid ``traceparent`` names."""
    return _otel.SpanContext(
        int(trace.trace_id, 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=_otel.TraceFlags(int(trace.flags, 16)),
        trace_state=_otel.TraceState.from_header([headers.get("tracestate", "")]),
    )
