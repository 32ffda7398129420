"""A call on its way, and the arguments that it takes along."""

from __future__ import annotations

from typing import Any

import pytest

from evbus.engine.service.call import Call
from evbus.engine.service.declare import Service, service, service_spec
from tests.engine.service.kit import Shop

METHODS = service_spec(Shop).methods


@service()
class Defaults(Service):
    async def many(self, a: int, b: int = 2, /, c: int = 3, *, d: int = 4, e: int) -> int: ...


MANY = service_spec(Defaults).methods["many"]


def test_a_call_knows_its_name_and_what_is_left() -> None:
    call = Call("store", "shop", METHODS["find"], ["x"], {}, 5, {"a": "b"})
    assert call.name == "store:shop:find"
    assert 4 < call.seconds <= 5
    assert (call.args, call.kwargs, call.headers) == (["x"], {}, {"a": "b"})
    assert repr(call).startswith("<Call store:shop:find ")


@pytest.mark.parametrize(
    ("args", "kwargs", "travels"),
    [
        ((1,), {"e": 5}, ([1], {"e": 5})),
        ((1, 9), {"e": 5}, ([1, 9], {"e": 5})),
        ((1,), {"c": 7, "e": 5}, ([1, 2, 7], {"e": 5})),
        ((1, 2, 3), {"d": 4, "e": 5}, ([1, 2, 3], {"d": 4, "e": 5})),
    ],
)
def test_arguments_travel_as_they_are_given_or_by_position(args: Any, kwargs: Any, travels: Any) -> None:
    assert MANY.arguments(args, kwargs) == (list(args), kwargs)
    assert MANY.by_position(args, kwargs) == travels
    for made in (MANY.arguments(args, kwargs), travels):
        assert MANY.read_arguments(*made) is not None


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {"e": 1}, r"Defaults.many\(\): missing a required argument: 'a'"),
        ((1,), {}, r"Defaults.many\(\): missing a required .*argument: 'e'"),
        ((1, 2, 3, 4), {"e": 1}, r"Defaults.many\(\): too many positional arguments"),
        ((1,), {"e": 1, "x": 2}, r"Defaults.many\(\): got an unexpected keyword argument 'x'"),
    ],
)
def test_a_call_that_python_refuses_is_refused_before_it_travels(args: Any, kwargs: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        MANY.arguments(args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "called"),
    [
        ([1], {"e": 5}, ([1], {"e": 5})),
        ([1, 2, 3], {"e": 5}, ([1, 2], {"c": 3, "e": 5})),
        ([], {"a": 1, "b": 2, "e": 5}, ([1, 2], {"e": 5})),
    ],
)
def test_what_has_travelled_is_given_back_as_the_method_takes_it(args: Any, kwargs: Any, called: Any) -> None:
    assert MANY.read_arguments(args, kwargs) == called


def test_options_of_a_method_stand_above_those_of_its_interface() -> None:
    assert METHODS["find"].options[:3] == (3.0, True, 0.5)
    assert METHODS["order"].options[:3] == (None, False, None)
