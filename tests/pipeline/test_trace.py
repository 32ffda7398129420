from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from evbus.api import bus
from evbus.engine.core.lane.stats import LaneKey
from evbus.engine.stages import trace as stages_trace
from evbus.errors import Rejected
from evbus.types import Envelope
from tests.evbus.kit import WAIT, new_hub

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.fixture
def room(room: Any) -> Any:
    """Return a hub with this room alone."""
    room.pipeline.trace.configure(None)
    return room


@pytest.fixture
def without_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as where OpenTelemetry is not installed."""
    monkeypatch.setattr(stages_trace, "_otel", None)
    monkeypatch.setattr(stages_trace, "_otel_context", None)
    monkeypatch.setattr(stages_trace, "_otel_baggage", None)


@pytest.fixture(autouse=True)
def no_trace_yet() -> Iterator[None]:
    """Start without a trace, and leave none."""
    token = stages_trace._current.set(None)
    yield
    stages_trace._current.reset(token)


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


async def handle(
    hub: Any, headers: dict[str, str], handler: Callable[[Envelope], Awaitable[Any]] | None = None
) -> Any:
    """Handle an event; without a handler another event is sent meanwhile, and its headers are returned."""

    async def sends(envelope: Envelope) -> dict[str, str]:
        return send(hub)

    return await hub.pipeline.trace.handle(Envelope("p", "k", b"", headers), handler or sends)


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

    async def test_a_task_started_within_a_trace_stays_in_it(self, room: Any) -> None:
        async def put() -> dict[str, str]:
            return send(room)

        outer = send(room)
        inner = await asyncio.create_task(put())
        assert trace_of(inner) == trace_of(outer)

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

    async def test_what_a_handler_puts_is_in_the_trace_of_its_event(self, room: Any) -> None:
        inner = await handle(room, {"traceparent": GIVEN, "tracestate": "a=1"})
        assert trace_of(inner) == TRACE
        assert parent_of(inner) != PARENT
        assert inner["tracestate"] == "a=1"
        assert trace_of(send(room)) not in (TRACE, None)

    async def test_flags_of_a_later_version_are_not_passed_on(self, room: Any) -> None:
        inner = await handle(room, {"traceparent": f"cc-{TRACE}-{PARENT}-09-x"})
        assert inner["traceparent"].endswith("-01")

    @pytest.mark.parametrize("headers", [{}, {"traceparent": "x"}])
    async def test_events_without_a_trace_do_not_end_up_in_one(
        self, room: Any, headers: dict[str, str]
    ) -> None:
        async def handler(envelope: Envelope) -> str:
            return trace_of(send(room))

        traces = {await handle(room, headers, handler) for _ in range(3)}
        assert len(traces) == 3

    async def test_the_trace_before_is_restored_when_the_handler_raises(self, room: Any) -> None:
        async def handler(envelope: Envelope) -> None:
            raise KeyError("from the handler")

        before = trace_of(send(room))
        with pytest.raises(KeyError, match="from the handler"):
            await handle(room, {"traceparent": GIVEN}, handler)
        assert trace_of(send(room)) == before


def put_trace(queue: Any) -> None:
    headers: dict[str, str] = {}
    stages_trace.send(headers)
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
    async def test_a_handler_s_spans_and_events_belong_to_the_sender_s_trace(
        self, room: Any, tracer: Any, flags: str
    ) -> None:
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

    async def test_a_handler_without_a_span_passes_the_sender_s_trace_on(self, room: Any) -> None:
        assert trace_of(await handle(room, {"traceparent": GIVEN})) == TRACE
        assert trace_of(send(room)) != TRACE

    async def test_an_event_without_a_trace_leaves_the_spans_alone(self, room: Any, tracer: Any) -> None:
        with tracer.start_as_current_span("outer") as span:
            inner = await handle(room, {})
        assert trace_of(inner) == f"{span.get_span_context().trace_id:032x}"


class TestSpans:
    @pytest.fixture(autouse=True)
    def spans(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        api = pytest.importorskip("opentelemetry.trace")
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        export = pytest.importorskip("opentelemetry.sdk.trace.export")
        memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        exporter = memory.InMemorySpanExporter()
        provider = sdk.TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(export.SimpleSpanProcessor(exporter))
        # As set_tracer_provider does, which works once in a process.
        monkeypatch.setattr(api, "_TRACER_PROVIDER", provider)
        monkeypatch.setattr(stages_trace, "_tracer", api.get_tracer("evbus"))
        yield exporter.get_finished_spans
        provider.shutdown()

    @pytest.fixture
    def tracer(self) -> Any:
        return pytest.importorskip("opentelemetry.trace").get_tracer("test")

    @pytest.fixture
    def room(self) -> Any:
        return new_hub()

    async def test_each_handling_has_a_span(self, room: Any, spans: Any) -> None:
        inner = dict(await handle(room, {"traceparent": GIVEN, "ce-id": "7"}))
        sent, span = spans()
        assert (span.name, span.kind.name, span.status.status_code.name) == ("process k", "CONSUMER", "UNSET")
        assert dict(span.attributes) == {
            "messaging.system": "evbus",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "k",
            "messaging.message.id": "7",
        }
        assert f"{span.context.trace_id:032x}" == trace_of(inner) == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
        assert [f"{link.context.span_id:016x}" for link in span.links] == [PARENT]
        assert sent.parent.span_id == span.context.span_id
        assert parent_of(inner) == f"{sent.context.span_id:016x}"

    def test_each_sending_has_a_span_that_the_event_names(self, room: Any, spans: Any, tracer: Any) -> None:
        with tracer.start_as_current_span("order") as outer:
            headers = send(room, **{"ce-id": "7"})
        span, _ = spans()
        assert (span.name, span.kind.name, span.status.status_code.name) == ("send k", "PRODUCER", "UNSET")
        assert dict(span.attributes) == {
            "messaging.system": "evbus",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": "k",
            "messaging.message.id": "7",
        }
        assert not span.links
        assert span.parent.span_id == outer.get_span_context().span_id
        assert trace_of(headers) == f"{span.context.trace_id:032x}"
        assert parent_of(headers) == f"{span.context.span_id:016x}"

    def test_a_sending_without_a_span_around_it_begins_a_trace(self, room: Any, spans: Any) -> None:
        assert trace_of(send(room)) != trace_of(send(room))
        assert [span.parent for span in spans()] == [None, None]

    def test_a_trace_that_the_caller_set_stays_and_the_span_is_linked_to_it(
        self, room: Any, spans: Any
    ) -> None:
        assert send(room, traceparent=GIVEN, tracestate="a=1") == {"traceparent": GIVEN, "tracestate": "a=1"}
        (span,) = spans()
        assert (span.name, span.kind.name) == ("send k", "CLIENT")
        (link,) = span.links
        assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, PARENT)
        assert link.context.trace_state.to_header() == "a=1"

    def test_an_invalid_traceparent_gives_way_to_the_span(self, room: Any, spans: Any) -> None:
        headers = send(room, traceparent="x", tracestate="a=1")
        (span,) = spans()
        assert parent_of(headers) == f"{span.context.span_id:016x}"
        assert "tracestate" not in headers

    def test_a_provider_that_makes_no_spans_is_as_none(
        self, room: Any, spans: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api = pytest.importorskip("opentelemetry.trace")
        monkeypatch.setattr(stages_trace, "_tracer", api.NoOpTracer())
        assert trace_of(send(room)) == trace_of(send(room))
        assert not spans()

    async def test_a_span_says_why_its_handler_failed(self, room: Any, spans: Any) -> None:
        async def handler(envelope: Envelope) -> None:
            raise failure

        for failure in (KeyError("from the handler"), Rejected("no")):
            with pytest.raises(type(failure)):
                await handle(room, {}, handler)
        span, refused = spans()
        assert span.status.status_code.name == "ERROR"
        (recorded,) = span.events
        assert recorded.attributes["exception.type"] == span.attributes["error.type"] == "KeyError"
        assert refused.attributes["error.type"] == "evbus.errors.Rejected"
        assert span.parent is None
        assert not span.links
        assert "messaging.message.id" not in span.attributes

    async def test_a_span_without_a_routing_key_is_named_after_the_profile(
        self, room: Any, spans: Any
    ) -> None:
        async def handler(envelope: Envelope) -> None: ...

        await room.pipeline.trace.handle(Envelope("p", "", b"", {"message-id": "8"}), handler)
        (span,) = spans()
        assert (span.name, span.attributes["messaging.message.id"]) == ("process p", "8")

    def test_a_message_without_either_is_named_after_what_is_done(self, room: Any, spans: Any) -> None:
        room.pipeline.trace.send(Envelope("", "", b"", {}))
        (span,) = spans()
        assert span.name == "send"
        assert "messaging.destination.name" not in span.attributes

    async def test_through_a_broker_both_spans_say_which_system_it_is(
        self, rabbitmq: Any, unique: str, spans: Any
    ) -> None:
        url = f"amqp://guest:guest@{rabbitmq.host}:{rabbitmq.port}/"
        contexts = {
            "internal": {"default": {}},
            "amqp": {"shop": {"url": url, "exchange": {"name": unique, "type": "topic"}}},
        }

        got = asyncio.Event()
        async with bus(contexts, pipeline=["stamp", "trace"]) as events:

            async def on(order: Any) -> None:
                got.set()

            events.subscribe(unique, on, profile="shop")
            await events.hub.event.init.ready()
            await events.put(routing_key=unique, body={"id": 1}, profile="shop")
            await asyncio.wait_for(got.wait(), WAIT)
        sent, handled = spans()
        for span in (sent, handled):
            assert span.attributes["messaging.system"] == "rabbitmq"
            assert span.attributes["messaging.rabbitmq.destination.routing_key"] == unique
        assert (sent.name, handled.name) == (f"send {unique}", f"process {unique}")
        assert handled.parent.span_id == sent.context.span_id
        assert handled.attributes["messaging.message.id"] == sent.attributes["messaging.message.id"]

    async def test_events_of_this_process_are_of_the_bus(self, spans: Any) -> None:
        async with bus({"internal": {"*": {}}}, pipeline=["trace"]) as events:
            events.subscribe("paid", lambda event: None)
            await events.put(routing_key="paid", body={})
            await events.settle(WAIT)
        assert [span.attributes["messaging.system"] for span in spans()] == ["evbus", "evbus"]


@pytest.mark.parametrize(
    ("plugins", "system"),
    [
        ((), "evbus"),
        (("internal",), "evbus"),
        (("amqp",), "rabbitmq"),
        (("amqp", "amqp", "internal"), "rabbitmq"),
        (("kafka",), "kafka"),
        (("amqp", "file"), "evbus"),
    ],
)
def test_the_system_is_that_of_the_only_plugin(plugins: tuple[str, ...], system: str) -> None:
    lanes = [SimpleNamespace(key=LaneKey(plugin, plugin, "p")) for plugin in plugins]
    assert stages_trace.system(lanes) == system


class TestBaggage:
    @pytest.fixture(params=["otel", "none"])
    def otel(self, request: pytest.FixtureRequest) -> bool:
        if request.param == "none":
            request.getfixturevalue("without_otel")
            return False
        pytest.importorskip("opentelemetry.baggage")
        return True

    @pytest.mark.parametrize("trace", [{}, {"traceparent": GIVEN}])
    async def test_what_came_goes_out_again(self, room: Any, otel: bool, trace: dict[str, str]) -> None:
        inner = await handle(room, {"baggage": "tenant=acme", **trace})
        assert inner["baggage"] == "tenant=acme"
        assert (trace_of(inner) == TRACE) is bool(trace)
        other = await handle(room, trace)
        assert "baggage" not in other
        assert "baggage" not in send(room)

    @pytest.mark.usefixtures("otel")
    async def test_what_the_caller_set_stays(self, room: Any) -> None:
        async def handler(envelope: Envelope) -> dict[str, str]:
            return send(room, baggage="tenant=other")

        assert (await handle(room, {"baggage": "tenant=acme"}, handler))["baggage"] == "tenant=other"

    @pytest.mark.usefixtures("otel")
    async def test_what_is_too_long_goes_no_further(self, room: Any) -> None:
        longest, more = (
            f"a={'x' * 4000},b={'y' * 4000},c={'z' * 184}",
            f"a={'x' * 4000},b={'y' * 4000},c={'z' * 185}",
        )
        assert len(longest) == 8192
        assert (await handle(room, {"baggage": longest}))["baggage"] == longest
        assert (await handle(room, {"baggage": more})).get("baggage") != more

    async def test_opentelemetry_s_is_sent_and_is_there_where_the_event_is_handled(self, room: Any) -> None:
        baggage = pytest.importorskip("opentelemetry.baggage")
        context = pytest.importorskip("opentelemetry.context")

        async def handler(envelope: Envelope) -> Any:
            return dict(baggage.get_all())

        token = context.attach(baggage.set_baggage("user", "Jürgen, à 2"))
        headers = send(room)
        context.detach(token)
        assert headers["baggage"].isascii()
        assert await handle(room, headers, handler) == {"user": "Jürgen, à 2"}
        assert not baggage.get_all()


def test_trace_takes_part_only_when_it_is_named(room: Any) -> None:
    assert room.pipeline.trace.__optional__ is True
