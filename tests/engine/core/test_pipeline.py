"""Which interceptors run, and in which order."""

from __future__ import annotations

from typing import Any

from evbus.engine.core.endpoint import Plugin
from evbus.engine.core.pipeline import DescribedStep, around, arrange, before, takes_descriptor
from evbus.engine.stages.receiver import RECEIVER
from evbus.errors import SettingsError
from evbus.types import Envelope
from tests.evbus.rig import failure

PLUGINS = {
    name: Plugin(name, order=order, optional=optional)
    for name, order, optional in [
        ("b", 0, False),
        ("a", 0, False),
        ("z", -1, False),
        ("y", 5, False),
        ("o", 0, True),
    ]
}


def test_without_the_option_all_that_are_not_optional_run_by_order_and_name() -> None:
    assert arrange(PLUGINS, None) == ["z", "a", "b", "y"]


def test_the_option_names_exactly_those_that_run_in_their_order() -> None:
    assert arrange(PLUGINS, ("y", "o", "a")) == ["y", "o", "a"]
    assert arrange(PLUGINS, ()) == []


def test_a_name_that_there_is_none_of_is_told_with_the_nearest() -> None:
    assert failure(SettingsError, arrange, {"stamp": Plugin("stamp")}, ("stamp", "stmp")) == (
        "evbus.pipeline[1]: there is no pipeline plugin 'stmp'; did you mean 'stamp'?"
    )


def test_a_name_given_twice_is_refused() -> None:
    assert (
        failure(SettingsError, arrange, PLUGINS, ("a", "b", "a")) == "evbus.pipeline[2]: 'a' is named twice"
    )


def test_nothing_runs_around_without_steps() -> None:
    assert around([]) is None


async def test_the_last_step_is_the_outermost() -> None:
    def step(name: str) -> Any:
        async def run(envelope: Envelope, call_next: Any) -> str:
            return f"{name}({await call_next(envelope)})"

        return run

    async def handler(envelope: Envelope) -> str:
        return envelope.routing_key

    handle = around([step("compress"), step("sign")])
    assert handle is not None
    assert str(await handle(Envelope("p", "k"), handler)) == "sign(compress(k))"


def test_what_takes_one_argument_more_takes_a_descriptor() -> None:
    def plain(hub: Any, envelope: Any) -> None: ...
    def more(hub: Any, envelope: Any, what: Any) -> None: ...
    def named(hub: Any, envelope: Any, event_descriptor: Any = None) -> None: ...
    def own(hub: Any, envelope: Any, limit: int = 3, *, descriptor: Any = None) -> None: ...
    def any_(*args: Any, **kwargs: Any) -> None: ...

    functions = (plain, more, named, own, any_)
    assert [takes_descriptor(function, 2) for function in functions] == [False, True, True, False, False]


async def test_steps_that_want_it_get_a_descriptor() -> None:
    seen: list[Any] = []

    async def plain(envelope: Envelope, call_next: Any) -> Any:
        return await call_next(envelope)

    async def described(envelope: Envelope, call_next: Any, descriptor: Any) -> Any:
        seen.append(descriptor)
        return await call_next(envelope)

    async def handler(envelope: Envelope) -> str:
        return envelope.routing_key

    handle = around([plain, DescribedStep(described)])
    assert handle is not None
    assert await handle(Envelope("p", "k"), handler, "billing", "the listener") == "k"
    assert await handle(Envelope("p", "k"), handler) == "k"
    send = before(
        [
            lambda envelope: seen.append(1),
            DescribedStep(lambda envelope, descriptor: seen.append(descriptor)),
        ],
        lambda envelope: f"the event {envelope.routing_key}",
    )
    assert send is not None
    send(Envelope("p", "k"))
    assert seen == ["the listener", None, 1, "the event k"]
    assert before([]) is None


async def test_a_step_sees_for_which_receiver_it_runs() -> None:
    async def step(envelope: Envelope, call_next: Any) -> list[str]:
        return [RECEIVER.get(), *(await call_next(envelope))]

    async def handler(envelope: Envelope) -> list[str]:
        return [RECEIVER.get()]

    handle = around([step])
    assert handle is not None
    found = [await handle(Envelope("p"), handler, "billing"), await handle(Envelope("p"), handler)]
    assert RECEIVER.get() == ""
    assert found == [["billing", "billing"], ["", ""]]
