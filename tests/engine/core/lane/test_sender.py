"""The one way a lane publishes, whatever way a plugin offers."""

from __future__ import annotations

import asyncio
from typing import Any, Optional

import pytest

from evbus.engine.core.lane.sender import Sender, check_publish, takes_text
from evbus.errors import DeliveryError, DeliveryTimeout, PluginError, Rejected, Unavailable
from evbus.types import Envelope
from tests.evbus.rig import Target, sender, turns, within

ONE = [Envelope("p", "k", b"1", {"content-type": "x"})]
THREE = [Envelope("p", "k", body, {"content-type": "x"}) for body in (b"1", b"2", b"3")]


def send(made: Sender, events: list[Envelope]) -> Any:
    return asyncio.run(within(made.send(events)))


async def nothing(*_args: Any, **_named: Any) -> None:
    return None


# Signatures


async def full(hub: Any, ctx: Any, routing_key: Any, body: Any) -> None: ...
async def with_headers(hub: Any, ctx: Any, routing_key: Any, body: Any, headers: Any) -> None: ...
async def old(hub: Any, ctx: Any, body: Any) -> None: ...
async def keywords(hub: Any, ctx: Any, body: Any, **rest: Any) -> None: ...
async def optional(hub: Any, ctx: Any, body: Any, *, headers: Any = None, extra: int = 1) -> None: ...
def plain(hub: Any, ctx: Any, body: Any) -> None: ...
async def no_hub(ctx: Any, body: Any) -> None: ...
async def unknown(hub: Any, ctx: Any, body: Any, topic: Any) -> None: ...
async def no_body(hub: Any, ctx: Any, routing_key: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (full, ("routing_key", "body")),
        (with_headers, ("routing_key", "body", "headers")),
        (old, ("body",)),
        (keywords, ("body", "headers", "routing_key")),
        (optional, ("body", "headers")),
    ],
)
def test_every_published_form_is_known(function: Any, takes: tuple[str, ...]) -> None:
    assert check_publish(function) == takes


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (plain, "must be 'async def'"),
        (no_hub, r"takes \(ctx, body\), but must begin with hub, ctx"),
        (unknown, "takes the parameter 'topic', which the bus does not know"),
        (no_body, "takes no parameter 'body'"),
    ],
)
def test_any_other_form_is_refused_with_the_right_ones(function: Any, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence) as caught:
        check_publish(function)
    assert "publish(hub, ctx, routing_key, body)" in str(caught.value)


# Publishing


def test_a_publish_gets_what_it_takes_and_headers_of_its_own() -> None:
    got: list[Any] = []

    async def publish(_ctx: Any, **named: Any) -> None:
        got.append(named)
        named.get("headers", {}).clear()

    for takes in (("body",), ("routing_key", "body", "headers")):
        assert send(Sender({}, publish=publish, takes=takes), ONE) == [None]
    assert got == [{"body": b"1"}, {"routing_key": "k", "body": b"1", "headers": {}}]
    assert ONE[0].headers == {"content-type": "x"}


async def text_body(hub: Any, ctx: Any, routing_key: str, body: str) -> None: ...
async def bytes_body(hub: Any, ctx: Any, body: bytes) -> None: ...
async def either_body(hub: Any, ctx: Any, body: bytes | str) -> None: ...


async def optional_body(hub: Any, ctx: Any, body: Optional[str]) -> None: ...  # noqa: UP045 - as theirs


async def text_or_none(hub: Any, ctx: Any, body: str | None = None) -> None: ...


def test_a_plugin_that_says_that_its_body_is_text_gets_text() -> None:
    for function in (text_body, optional_body, text_or_none):
        assert takes_text(function)
    for function in (bytes_body, either_body, full, no_body):
        assert not takes_text(function)
    for kind in (str, Optional[str], str | None):  # noqa: UP045 - without annotations from __future__

        async def evaluated(hub: Any, ctx: Any, body: Any) -> None: ...

        evaluated.__annotations__["body"] = kind
        assert takes_text(evaluated)
    got: list[Any] = []

    async def publish(_ctx: Any, body: Any) -> None:
        got.append(body)

    bodies = (("ä".encode(), "application/json"), (b"\xff", "text/plain"), (b"a", "application/msgpack"))
    events = [Envelope("p", "k", body, {"content-type": kind}) for body, kind in bodies]
    assert send(Sender({}, publish=publish, takes=["body"], text=True), events) == [None] * 3
    # What is no text was bytes with pop-evbus as well.
    assert got == ["ä", b"\xff", b"a"]


def test_without_publish_batch_the_first_failure_ends_the_call() -> None:
    problem = ValueError("boom")
    target = Target(plan=[None, problem])
    assert send(sender(target), THREE) == [None, problem]
    assert target.tried == [[b"1"], [b"2"]]


def test_a_failure_of_the_whole_batch_is_the_outcome_of_each() -> None:
    problem = ValueError("boom")
    target = Target(batching=True, plan=[problem])
    assert send(sender(target), THREE) == [problem] * 3


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (None, "'NoneType'"),
        ([None], "1 outcomes"),
        ([None] * 4, "4 outcomes"),
        ((None, None, None), "'tuple'"),
    ],
)
def test_a_batch_with_too_few_outcomes_delivered_nothing_and_says_what_is_right(
    returned: Any, found: str
) -> None:
    class Bad(Target):
        async def publish_batch(self, _ctx: Any, events: Any) -> Any:
            return returned

    outcomes = send(sender(Bad(batching=True)), THREE)
    assert [type(outcome) for outcome in outcomes] == [DeliveryError] * 3
    assert f"publish_batch returned {found} for 3 events" in str(outcomes[0])


@pytest.mark.parametrize("odd", [True, False, "ok", 0, ValueError])
def test_an_outcome_that_is_neither_none_nor_an_exception_is_a_failure_that_says_so(odd: Any) -> None:
    class Bad(Target):
        async def publish_batch(self, _ctx: Any, events: Any) -> Any:
            return [None, odd, None]

    first, second, third = send(sender(Bad(batching=True)), THREE)
    assert (first, third) == (None, None)
    assert isinstance(second, DeliveryError)
    assert "None or an exception is right" in str(second)


@pytest.mark.parametrize("batching", [True, False])
def test_a_plugin_that_cancels_itself_failed(batching: bool) -> None:
    target = Target(batching=batching, plan=[asyncio.CancelledError()])
    outcome = send(sender(target), ONE)[0]
    assert isinstance(outcome, DeliveryError)


def test_a_publish_has_its_time() -> None:
    class Slow(Target):
        async def publish_batch(self, _ctx: Any, events: Any) -> Any:
            await asyncio.Event().wait()

    for batching in (True, False):
        assert isinstance(send(sender(Slow(batching=batching), timeout=1e-6), ONE)[0], DeliveryTimeout)


def test_the_profile_changes_the_routing_key_of_what_is_sent_alone() -> None:
    target = Target(batching=True)
    made = sender(target, route=lambda event: event.replace(routing_key="to." + event.routing_key))
    assert send(made, THREE) == [None] * 3
    assert {event.routing_key for event in target.letters} == {"to.k"}
    assert THREE[0].routing_key == "k"


@pytest.mark.parametrize("batching", [True, False])
def test_a_template_that_fails_is_a_failure_of_the_event(batching: bool) -> None:
    def route(event: Envelope) -> Envelope:
        raise KeyError("boom")

    made = sender(Target(batching=batching), route=route, publish_nowait=lambda ctx, events: None)
    assert isinstance(send(made, ONE)[0], KeyError)
    assert made.send_nowait(ONE) is None


# At once


def test_send_nowait_publishes_all_or_says_that_it_cannot() -> None:
    got: list[Any] = []
    made = sender(Target(), publish_nowait=lambda ctx, events: got.extend(events))
    assert made.immediate
    assert made.send_nowait(THREE) == 0
    assert got == THREE
    assert not sender(Target()).immediate
    assert sender(Target()).send_nowait(ONE) is None


@pytest.mark.parametrize(("said", "dropped"), [(None, 0), (0, 0), (2, 2), (9, 3), ("2", 0)])
def test_send_nowait_says_how_many_gave_way(said: Any, dropped: int) -> None:
    assert sender(Target(), publish_nowait=lambda ctx, events: said).send_nowait(THREE) == dropped


@pytest.mark.parametrize("problem", [asyncio.QueueFull(), ValueError(), asyncio.CancelledError()])
def test_send_nowait_that_fails_published_nothing(problem: BaseException) -> None:
    def publish_nowait(ctx: Any, events: Any) -> None:
        raise problem

    assert sender(Target(), publish_nowait=publish_nowait).send_nowait(ONE) is None


def test_send_nowait_waits_for_open() -> None:
    made = sender(Target(), publish_nowait=lambda ctx, events: None, opener=nothing)
    assert made.send_nowait(ONE) is None
    send(made, ONE)
    assert made.send_nowait(ONE) == 0


# Open and close


class Door:
    """An opener and a closer that count."""

    def __init__(self, *problems: BaseException | None) -> None:
        self.problems = list(problems)
        self.opened = 0
        self.closed = 0
        self.gate: asyncio.Event | None = None

    async def open(self, _ctx: Any) -> str:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        problem = self.problems.pop(0) if self.problems else None
        if problem is not None:
            raise problem
        self.opened += 1
        return f"state {self.opened}"

    async def close(self, ctx: Any) -> None:
        assert ctx["state"] == f"state {self.opened}"
        self.closed += 1


async def test_the_state_is_opened_once_for_many_workers_and_closed_once() -> None:
    door, ctx = Door(), {"state": None}
    made = sender(Target(), opener=door.open, closer=door.close, ctx=ctx)
    await asyncio.gather(made.open(5), *(made.send(ONE) for _ in range(3)), made.open(5))
    assert (door.opened, ctx["state"]) == (1, "state 1")
    await asyncio.gather(made.close(5), made.close(5))
    await made.close(5)
    assert door.closed == 1


@pytest.mark.parametrize("later", range(12))
async def test_who_sends_when_it_is_open_comes_after_those_who_waited_for_that(later: int) -> None:
    target, door = Target(batching=True), Door()
    made = sender(target, opener=door.open, closer=door.close)
    tasks = [asyncio.ensure_future(made.send([event])) for event in THREE[:2]]
    await turns(later)
    tasks.append(asyncio.ensure_future(made.send([THREE[2]])))
    assert [await task for task in tasks] == [[None]] * 3
    assert target.got == [b"1", b"2", b"3"]
    await made.close(5)


async def test_an_open_that_fails_is_tried_again_with_the_next_send_and_counts_as_unavailable() -> None:
    door = Door(ConnectionError("refused"), Unavailable("busy", retry_after=5), asyncio.CancelledError())
    target = Target(batching=True)
    made = sender(target, opener=door.open, closer=door.close)
    first, second, third = [(await made.send(THREE)) for _ in range(3)]
    assert [str(problem) for problem in first] == ["refused"] * 3
    assert isinstance(first[0], Unavailable)
    assert isinstance(first[0].__cause__, ConnectionError)
    assert isinstance(second[0], Unavailable)
    assert second[0].retry_after == 5
    assert isinstance(third[0], Unavailable)
    assert target.tried == []
    assert await made.send(ONE) == [None]
    await made.close(5)
    assert (door.opened, door.closed) == (1, 1)


async def test_what_was_never_opened_is_not_closed() -> None:
    door = Door(ValueError("boom"))
    made = sender(Target(), opener=door.open, closer=door.close)
    with pytest.raises(ValueError, match="boom"):
        await made.open(5)
    await made.close(5)
    assert (door.opened, door.closed) == (0, 0)
    (outcome,) = await made.send(ONE)
    assert isinstance(outcome, Unavailable)
    assert door.opened == 0


async def test_a_closer_without_opener_is_called_once() -> None:
    closed: list[Any] = []

    async def closer(ctx: Any) -> None:
        closed.append(ctx)

    made = sender(Target(), closer=closer)
    await made.close(5)
    await made.close(5)
    assert len(closed) == 1


async def test_what_an_open_that_swallows_its_cancellation_makes_after_the_end_is_closed() -> None:
    class Stubborn(Door):
        async def open(self, ctx: Any) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return await super().open(ctx)
            return ""

    door = Stubborn()
    made = sender(Target(), opener=door.open, closer=door.close)
    task = asyncio.ensure_future(made.open(5))
    await turns(2)
    await made.close(5)
    task.cancel()
    await asyncio.wait({task})
    assert (door.opened, door.closed) == (1, 1)


async def test_an_open_that_hangs_is_given_up() -> None:
    door = Door()
    door.gate = asyncio.Event()
    made = sender(Target(), opener=door.open, closer=door.close)
    with pytest.raises(DeliveryTimeout):
        await made.open(1e-6)
    door.gate.set()
    assert await made.send(ONE) == [None]
    await made.close(5)
    assert (door.opened, door.closed) == (1, 1)


@pytest.mark.parametrize("problem", [ValueError("token s3cr3t-s3cr3t"), asyncio.CancelledError()])
def test_a_close_that_fails_is_one_line_without_secrets(problem: BaseException, caplog: Any) -> None:
    async def closer(ctx: Any) -> None:
        raise problem

    made = sender(Target(), closer=closer, secrets=frozenset({"s3cr3t-s3cr3t"}))
    asyncio.run(made.close(5))
    (record,) = caplog.records
    assert "close of an ingress plugin failed" in record.message
    assert "s3cr3t" not in record.message
    assert record.exc_info is None


def test_a_close_that_hangs_is_given_up(caplog: Any) -> None:
    async def closer(ctx: Any) -> None:
        await asyncio.Event().wait()

    asyncio.run(within(sender(Target(), closer=closer).close(1e-6)))
    assert "close of an ingress plugin failed: DeliveryTimeout" in caplog.text


def test_rejected_by_open_later_than_the_start_is_tried_again() -> None:
    # The lane cannot refuse to start any more, and no event is to blame.
    door = Door(Rejected("forbidden"))
    (outcome,) = send(sender(Target(), opener=door.open), ONE)
    assert isinstance(outcome, Unavailable)


# A destination that says when it takes events


class Gate:
    """What a plugin's ``ready`` answers."""

    def __init__(self, why: str = "") -> None:
        self.why = why
        self.opened = asyncio.Event()
        self.states: list[Any] = []

    def ready(self, ctx: Any) -> Any:
        self.states.append(ctx["state"])
        return (self.why, self.wait()) if self.why else None

    async def wait(self) -> None:
        await self.opened.wait()


def test_a_destination_without_ready_always_takes_events() -> None:
    assert sender(Target()).not_ready() is None


async def test_ready_is_asked_with_the_open_state_and_not_before() -> None:
    gate = Gate()

    async def opener(ctx: Any) -> str:
        return "open"

    made = sender(Target(), opener=opener, ready=gate.ready)
    assert made.not_ready() is None
    assert gate.states == []
    await made.open(1)
    assert made.not_ready() is None
    assert gate.states == ["open"]
    gate.why = "down"
    waiting = made.not_ready()
    assert waiting is not None
    assert waiting[0] == "down"
    gate.opened.set()
    await within(waiting[1])
