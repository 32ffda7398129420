"""Calls around POP's wrapper: nobody may be able to tell, except by a clock."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from pathlib import Path
from typing import Any

import pop.contract
import pytest

from evbus.engine.core.broker import put_arguments
from evbus.engine.core.plugins.face import Direct, direct
from evbus.errors import InvalidRoutingKey
from tests.evbus.kit import write
from tests.evbus.rig import failure

NAMES = ["put", "put_nowait"]


def queued(hub: Any) -> tuple[str, str, bytes, dict[str, str]]:
    event = asyncio.run(hub.evbus.broker.get())
    headers = {name: value for name, value in event.headers.items() if name != "content-type"}
    return event.profile, event.routing_key, event.body, headers


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_of_the_broker_are_what_pop_makes_of_them(hub: Any, name: str) -> None:
    function = getattr(hub.evbus.broker, name)
    plain = function.func
    kind = pop.contract.ContractedAsync if name == "put" else pop.contract.Contracted
    pops = kind(hub, function.contracts, plain, "evbus.broker", name)
    assert isinstance(function, Direct)
    assert isinstance(function, pop.contract.Contracted)
    assert callable(function)
    assert repr(function) == repr(pops)
    assert f"func={plain.__module__}.{name}>" in repr(function)
    assert (function.__name__, function.ref) == (name, "evbus.broker")
    assert function.hub is hub
    assert not function._has_contracts
    assert function.signature == pops.signature
    assert inspect.signature(function) == inspect.signature(pops)
    assert (
        str(inspect.signature(function))
        == "(hub, routing_key=None, body=None, profile='default', headers=None)"
    )
    assert inspect.getdoc(function.func) == inspect.getdoc(pops.func)
    assert set(vars(pops)) - {"func"} <= set(vars(function))


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_the_function_finds_the_same(hub: Any, name: str) -> None:
    function = getattr(hub.evbus.broker, name)
    assert hub[f"evbus.broker.{name}"] is function
    assert hub["evbus"]["broker"][name] is function
    assert hub.evbus.broker[name] is function
    assert function in list(hub.evbus.broker)
    assert hub.evbus.broker._funcs[name] is function


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_are_pickled_as_pops_own_are(hub: Any, name: str) -> None:
    function = getattr(hub.evbus.broker, name)
    again = pickle.loads(pickle.dumps(function))  # noqa: S301 - our own bytes
    assert type(again) is type(function)
    assert again.ref == function.ref
    assert again.hub is not hub


def test_an_unpickled_put_works_on_the_hub_it_came_with(hub: Any) -> None:
    put = pickle.loads(pickle.dumps(hub.evbus.broker.put_nowait))  # noqa: S301 - our own bytes
    put(body=1)
    assert put.hub.evbus.BUS.qsize() == 1
    assert hub.evbus.BUS.qsize() == 0


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        # 6.x and 7.x: (body, profile)
        (("text",), {}, ("default", "", b'"text"', {})),
        (({"a": 1},), {}, ("default", "", b'{"a":1}', {})),
        (({"a": 1}, "p"), {}, ("p", "", b'{"a":1}', {})),
        (([1], "p"), {}, ("p", "", b"[1]", {})),
        (("text",), {"profile": "p"}, ("p", "", b'"text"', {})),
        (({"a": 1},), {"profile": "p", "routing_key": "rk"}, ("p", "rk", b'{"a":1}', {})),
        (("text",), {"routing_key": "rk"}, ("default", "rk", b'"text"', {})),
        # 4.x: (routing_key, body, profile)
        (("rk", {"a": 1}), {}, ("default", "rk", b'{"a":1}', {})),
        (("rk", "text"), {}, ("default", "rk", b'"text"', {})),
        ((None, {"a": 1}), {}, ("default", "", b'{"a":1}', {})),
        (("rk", {"a": 1}, "p"), {}, ("p", "rk", b'{"a":1}', {})),
        (("rk",), {"body": 1}, ("default", "rk", b"1", {})),
        (("rk", 1), {"profile": "p"}, ("p", "rk", b"1", {})),
        # evbus: headers
        (("rk", 1, "p", {"h": "v"}), {}, ("p", "rk", b"1", {"h": "v"})),
        (
            (),
            {"routing_key": "rk", "body": 1, "profile": "p", "headers": {"h": "v"}},
            ("p", "rk", b"1", {"h": "v"}),
        ),
        ((), {}, ("default", "", b"null", {})),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_positional_orders_of_all_versions(
    hub: Any, name: str, args: Any, kwargs: Any, expected: Any
) -> None:
    async def main() -> None:
        result = getattr(hub.evbus.broker, name)(*args, **kwargs)
        if name == "put":
            await result

    asyncio.run(main())
    assert queued(hub) == expected


@pytest.mark.parametrize(
    ("args", "kwargs", "sentence"),
    [
        (("rk", 1, "p", {}, 5), {}, "put takes at most 4 positional arguments, but 5 were given"),
        (("rk", 1), {"body": 2}, "put got several values for body"),
        (("rk", 1), {"routing_key": "x"}, "put got several values for routing_key"),
        (({}, "p"), {"profile": "q"}, "put got several values for profile"),
    ],
)
def test_impossible_arguments_are_told(hub: Any, args: Any, kwargs: Any, sentence: str) -> None:
    assert failure(TypeError, hub.evbus.broker.put_nowait, *args, **kwargs) == sentence
    assert hub.evbus.BUS.empty()


def test_unknown_keywords_are_a_type_error(hub: Any) -> None:
    with pytest.raises(TypeError, match="serial_plugin"):
        hub.evbus.broker.put_nowait(body=1, serial_plugin="json")


def test_three_positionals_are_never_guessed_at(hub: Any) -> None:
    with pytest.raises(InvalidRoutingKey, match="a routing key is a string or None, not dict"):
        hub.evbus.broker.put_nowait({"a": 1}, "p", "q")


def test_arguments_are_sorted_out_without_a_hub() -> None:
    assert put_arguments(("x",), None, None, "default", None) == (None, "x", "default", None)


# Contracts

CONTRACT = """
def pre_put_nowait(hub, ctx):
    ctx.kwargs["routing_key"] = "from pre"


def call_put_nowait(hub, ctx):
    ctx.kwargs["body"] = ["from call", ctx.kwargs["body"]]
    return ctx.func(*ctx.args, **ctx.kwargs)


def post_put_nowait(hub, ctx):
    return "from post"


async def pre_put(hub, ctx):
    ctx.kwargs["profile"] = "from pre"
"""


def extended(hub: Any, tmp_path: Path) -> Any:
    folder = write(tmp_path, contracts__broker=CONTRACT) / "contracts"
    hub.pop.sub.extend("evbus", contracts_static=[str(folder)])
    return hub


def test_a_contract_added_at_run_time_takes_effect_and_the_wrapper_is_pops_again(
    hub: Any, tmp_path: Path
) -> None:
    hub.evbus.broker.put_nowait(body=0)
    engine = hub.evbus.ENGINE
    extended(hub, tmp_path)
    assert not isinstance(hub.evbus.broker.put_nowait, Direct)
    assert not isinstance(hub.evbus.broker.put, Direct)
    assert hub.evbus.broker.put_nowait(body=1) == "from post"
    asyncio.run(hub.evbus.broker.put(body=2))
    assert queued(hub) == ("default", "", b"0", {})
    assert queued(hub) == ("default", "from pre", b'["from call",1]', {})
    assert queued(hub) == ("from pre", "", b"2", {})
    assert hub.evbus.ENGINE is engine


def test_what_no_contract_watches_is_called_directly_in_a_loop(hub: Any, tmp_path: Path) -> None:
    assert direct(hub.evbus.broker.get).func is hub.evbus.broker.get.func
    watched = extended(hub, tmp_path).evbus.broker.put_nowait
    assert direct(watched) is watched
    assert direct(len) is len


def test_a_function_that_pop_gives_no_hub_gets_none(hub: Any) -> None:
    function = pop.contract.Contracted(hub, [], len, "x", "len", implicit_hub=False)
    assert direct(function)([1, 2]) == 2
