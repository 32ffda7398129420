from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pop.hub
import pytest

from evbus.pipeline import _trace
from evbus.types import Envelope

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.fixture
def room() -> Any:
    """Return a hub with this room alone."""
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="pipeline", pypath="evbus.pipeline")
    return hub


@pytest.fixture
def without_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as where OpenTelemetry is not installed."""
    monkeypatch.setattr(_trace, "_otel", None)
    monkeypatch.setattr(_trace, "_otel_context", None)


@pytest.fixture(autouse=True)
def no_trace_yet() -> Iterator[None]:
    """Start without a trace, and leave none."""
    token = _trace._current.set(None)
    yield
    _trace._current.reset(token)


def send(hub: Any, **headers: str) -> dict[str, str]:
    """Put one event through the plugin, and return its headers."""
    envelope = Envelope("p", "k", b"", dict(headers))
    assert hub.pipeline.trace.send(envelope) is None
    return envelope.headers


def trace_of(headers: dict[str, str]) -> str:
    assert FORM.fullmatch(headers["traceparent"])
    return headers["traceparent"].split("-")[1]


def parent_of(headers: dict[str, str]) -> str:
    return headers["traceparent"].split("-")[2]


async def handle(hub: Any, headers: dict[str, str], handler: Callable[[Envelope], Awaitable[Any]]) -> Any:
    return await hub.pipeline.trace.handle(Envelope("p", "k", b"", headers), handler)


@pytest.mark.usefixtures("without_otel")
class TestWithoutOpenTelemetry:
    def test_all_events_of_one_context_share_a_trace_and_have_parents_of_their_own(self, room: Any) -> None:
        first, second = send(room), send(room)
        assert trace_of(first) == trace_of(second)
        assert parent_of(first) != parent_of(second)
        assert first["traceparent"].endswith("-01")
        assert "tracestate" not in first

    def test_contexts_have_traces_of_their_own(self, room: Any) -> None:
        contexts = [contextvars.copy_context() for _ in range(2)]
        assert len({trace_of(context.run(send, room)) for context in contexts}) == 2

    def test_a_task_started_within_a_trace_stays_in_it(self, room: Any) -> None:
        async def main() -> None:
            async def put() -> dict[str, str]:
                return send(room)

            outer = send(room)
            inner = await asyncio.create_task(put())
            assert trace_of(inner) == trace_of(outer)

        asyncio.run(main())

    @pytest.mark.parametrize("given", [GIVEN, f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-09-later"])
    def test_a_valid_traceparent_is_kept(self, room: Any, given: str) -> None:
        assert send(room, traceparent=given, tracestate="a=1") == {"traceparent": given, "tracestate": "a=1"}

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "x",
            GIVEN.upper(),
            GIVEN + "\n",
            GIVEN + "-more",
            GIVEN[:-1],
            f"ff-{TRACE}-{PARENT}-01",
            f"00-{'0' * 32}-{PARENT}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"cc-{TRACE}-{PARENT}-01later",
        ],
    )
    def test_an_invalid_traceparent_is_replaced_with_its_state(self, room: Any, given: str) -> None:
        headers = send(room, traceparent=given, tracestate="a=1")
        assert trace_of(headers) != TRACE
        assert "tracestate" not in headers

    def test_seeding_the_random_module_repeats_no_ids(self, room: Any) -> None:
        parents = set()
        for _ in range(2):
            random.seed(1)
            parents.add(parent_of(send(room)))
        assert len(parents) == 2

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_forked_children_have_ids_of_their_own(self) -> None:
        context = multiprocessing.get_context("fork")
        found = set()
        for _ in range(2):
            queue = context.SimpleQueue()
            child = context.Process(target=put_trace, args=(queue,))
            child.start()
            found.add(queue.get())
            child.join()
            child.close()
            queue.close()
        assert len(found) == 2

    def test_what_a_handler_puts_is_in_the_trace_of_its_event(self, room: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> dict[str, str]:
                return send(room)

            inner = await handle(room, {"traceparent": GIVEN, "tracestate": "a=1"}, handler)
            assert trace_of(inner) == TRACE
            assert parent_of(inner) != PARENT
            assert inner["tracestate"] == "a=1"
            assert _trace.current() is None

        asyncio.run(main())

    def test_flags_of_a_later_version_are_not_passed_on(self, room: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> dict[str, str]:
                return send(room)

            inner = await handle(room, {"traceparent": f"cc-{TRACE}-{PARENT}-09-x"}, handler)
            assert inner["traceparent"].endswith("-01")

        asyncio.run(main())

    @pytest.mark.parametrize("headers", [{}, {"traceparent": "x"}])
    def test_events_without_a_trace_do_not_end_up_in_one(self, room: Any, headers: dict[str, str]) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> str:
                return trace_of(send(room))

            traces = {await handle(room, headers, handler) for _ in range(3)}
            assert len(traces) == 3

        asyncio.run(main())

    def test_the_trace_before_is_restored_when_the_handler_raises(self, room: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> None:
                raise KeyError("from the handler")

            before = trace_of(send(room))
            with pytest.raises(KeyError, match="from the handler"):
                await handle(room, {"traceparent": GIVEN}, handler)
            assert trace_of(send(room)) == before

        asyncio.run(main())


def put_trace(queue: Any) -> None:
    headers: dict[str, str] = {}
    _trace.send(headers)
    queue.put(headers["traceparent"])


class TestWithOpenTelemetry:
    @pytest.fixture(autouse=True)
    def tracer(self) -> Iterator[Any]:
        pytest.importorskip("opentelemetry.trace")
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        provider = sdk.TracerProvider(shutdown_on_exit=False)
        yield provider.get_tracer("test")
        provider.shutdown()

    def test_the_current_span_is_the_parent(self, room: Any, tracer: Any) -> None:
        with tracer.start_as_current_span("order") as span:
            headers = send(room)
        context = span.get_span_context()
        assert headers == {
            "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        }

    def test_an_invalid_traceparent_gives_way_to_the_span(self, room: Any, tracer: Any) -> None:
        with tracer.start_as_current_span("order") as span:
            headers = send(room, traceparent="x", tracestate="a=1")
        assert trace_of(headers) == f"{span.get_span_context().trace_id:032x}"
        assert "tracestate" not in headers

    def test_without_a_span_a_trace_is_made(self, room: Any) -> None:
        first, second = send(room), send(room)
        assert trace_of(first) == trace_of(second)

    @pytest.mark.parametrize("flags", ["00", "01"])
    def test_a_handler_s_spans_and_events_belong_to_the_sender_s_trace(
        self, room: Any, tracer: Any, flags: str
    ) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> Any:
                with tracer.start_as_current_span("handling") as span:
                    return span, send(room)

            given = {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "tracestate": "a=1"}
            span, inner = await handle(room, given, handler)
            assert f"{span.get_span_context().trace_id:032x}" == trace_of(inner) == TRACE
            assert parent_of(inner) == f"{span.get_span_context().span_id:016x}"
            assert inner["traceparent"].endswith(flags)
            assert inner["tracestate"] == "a=1"
            if flags == "01":
                assert f"{span.parent.span_id:016x}" == PARENT

        asyncio.run(main())

    def test_a_handler_without_a_span_passes_the_sender_s_trace_on(self, room: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> dict[str, str]:
                return send(room)

            assert trace_of(await handle(room, {"traceparent": GIVEN}, handler)) == TRACE
            assert trace_of(send(room)) != TRACE

        asyncio.run(main())

    def test_an_event_without_a_trace_leaves_the_spans_alone(self, room: Any, tracer: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> dict[str, str]:
                return send(room)

            with tracer.start_as_current_span("outer") as span:
                inner = await handle(room, {}, handler)
            assert trace_of(inner) == f"{span.get_span_context().trace_id:032x}"

        asyncio.run(main())


class TestSpans:
    @pytest.fixture(autouse=True)
    def spans(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        export = pytest.importorskip("opentelemetry.sdk.trace.export")
        memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        exporter = memory.InMemorySpanExporter()
        provider = sdk.TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(export.SimpleSpanProcessor(exporter))
        monkeypatch.setattr(_trace, "_tracer", provider.get_tracer("evbus"))
        yield exporter.get_finished_spans
        provider.shutdown()

    def test_each_handling_has_a_span(self, room: Any, spans: Any) -> None:
        async def main() -> dict[str, str]:
            async def handler(envelope: Envelope) -> dict[str, str]:
                return send(room)

            return dict(await handle(room, {"traceparent": GIVEN, "ce-id": "7"}, handler))

        inner = asyncio.run(main())
        (span,) = spans()
        assert (span.name, span.kind.name, span.status.status_code.name) == ("k", "CONSUMER", "UNSET")
        assert dict(span.attributes) == {
            "messaging.system": "evbus",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "k",
            "messaging.message.id": "7",
        }
        assert f"{span.context.trace_id:032x}" == trace_of(inner) == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
        assert parent_of(inner) == f"{span.context.span_id:016x}"

    def test_a_span_says_why_its_handler_failed(self, room: Any, spans: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> None:
                raise KeyError("from the handler")

            with pytest.raises(KeyError):
                await handle(room, {}, handler)

        asyncio.run(main())
        (span,) = spans()
        assert span.status.status_code.name == "ERROR"
        (recorded,) = span.events
        assert recorded.attributes["exception.type"] == "KeyError"
        assert span.parent is None
        assert "messaging.message.id" not in span.attributes

    def test_a_span_without_a_routing_key_is_named_after_the_profile(self, room: Any, spans: Any) -> None:
        async def main() -> None:
            async def handler(envelope: Envelope) -> None: ...

            await room.pipeline.trace.handle(Envelope("p", "", b"", {"message-id": "8"}), handler)

        asyncio.run(main())
        (span,) = spans()
        assert (span.name, span.attributes["messaging.message.id"]) == ("p", "8")


def test_trace_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.trace.__optional__ is True
