"""W3C Trace Context, level 1: the headers ``traceparent`` (section 3.2) and ``tracestate`` (section 3.3)."""

from __future__ import annotations

import importlib
import os
import random
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from evbus.types import Envelope
from evbus.version import version

__all__ = ["Trace", "current", "handling", "inside", "parse", "send"]

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
# It stands for the tracer of whatever provider is set, be that later.
_tracer: Any = None if _otel is None else _otel.get_tracer("evbus", version)


class Trace(NamedTuple):
    """The trace that a context is in: its id, its flags, and the ``tracestate`` that came with it."""

    trace_id: str
    flags: str
    state: str = ""


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


def current() -> Trace | None:
    """Return the trace that this context is in, None before the first event."""
    return _current.get()


def send(headers: MutableMapping[str, str]) -> None:
    """Set ``traceparent``, and ``tracestate`` if there is one, unless a valid ``traceparent`` is there.

    An invalid one is replaced, and its ``tracestate`` goes with it (section 3.2.2.6 and 3.3).
    """
    given = headers.get("traceparent")
    if given is not None:
        if parse(given):
            return
        headers.pop("tracestate", None)
    if _otel is not None and _from_span(headers):
        return
    trace = _current.get()
    if trace is None:
        # Sampled: whether to record was not decided here, and "not sampled" would tell the receivers'
        # tracers to record nothing.
        trace = Trace(f"{_random.getrandbits(128) or 1:032x}", "01")
        _current.set(trace)
    headers["traceparent"] = f"00-{trace[0]}-{_random.getrandbits(64) or 1:016x}-{trace[1]}"
    if trace[2]:
        headers["tracestate"] = trace[2]


def _from_span(headers: MutableMapping[str, str]) -> bool:
    """Set the headers from the current OpenTelemetry span; say whether there is one."""
    context = _otel.get_current_span().get_span_context()
    if not context.is_valid:
        return False
    headers["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return True


@contextmanager
def inside(headers: Mapping[str, str]) -> Iterator[Trace | None]:
    """Put the context into the trace that ``headers`` name, and back where it was afterwards.

    Headers without a valid ``traceparent`` put it into none, so that events handled one after another
    by the same task do not end up in one trace.
    """
    given = headers.get("traceparent")
    trace = parse(given)
    if trace is not None:
        trace = trace._replace(state=headers.get("tracestate", ""))
    token = _current.set(trace)
    attached = _attach(given, trace)
    try:
        yield trace
    finally:
        if attached is not None:
            _otel_context.detach(attached)
        _current.reset(token)


@contextmanager
def handling(envelope: Envelope) -> Iterator[None]:
    """Put the context into the trace of a received event, with a span of its own where OpenTelemetry is.

    The span has the kind CONSUMER, the sender's span as its parent, and the attributes of OpenTelemetry's
    semantic conventions for messaging; an exception is recorded in it.
    """
    headers = envelope.headers
    with inside(headers):
        if _otel is None:
            yield
            return
        name = envelope.routing_key or envelope.profile
        about = {
            "messaging.system": "evbus",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": name,
        }
        event_id = headers.get("ce-id") or headers.get("message-id")
        if event_id:
            about["messaging.message.id"] = event_id
        with _tracer.start_as_current_span(name, kind=_otel.SpanKind.CONSUMER, attributes=about):
            yield


def _attach(traceparent: str | None, trace: Trace | None) -> Any:
    """Make the sender's span the parent of the spans that the handler starts, where OpenTelemetry is."""
    if _otel is None or trace is None or traceparent is None:
        return None
    sender = _otel.SpanContext(
        int(trace.trace_id, 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=_otel.TraceFlags(int(trace.flags, 16)),
        trace_state=_otel.TraceState.from_header([trace.state]),
    )
    return _otel_context.attach(_otel.set_span_in_context(_otel.NonRecordingSpan(sender)))
