"""Failures: how they travel, and what they are at the other end."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from evbus.engine.service.call import Call
from evbus.engine.service.declare import Service, method, service, service_spec
from evbus.engine.service.failures import MethodFailed, raised, refusal, refused, status_of
from evbus.engine.service.method import MethodSpec
from evbus.errors import (
    AuthorizationError,
    InvalidPayload,
    LocalServiceError,
    PayloadTooLarge,
    Rejected,
    RemoteServiceError,
    ServiceCommunicationError,
    ServiceTimeout,
    Unavailable,
)
from tests.engine.service.kit import OutOfStock


class Plain(Exception):
    pass


@dataclasses.dataclass
class Described(Exception):
    item: str
    left: int


class Deeper(OutOfStock):
    pass


@service(raises=[Plain])
class Failing(Service):
    @method(raises=[OutOfStock, Described])
    async def call(self) -> int: ...


SPEC: MethodSpec = service_spec(Failing).methods["call"]


def travelled(problem: Exception) -> Exception:
    return raised(json.loads(json.dumps(MethodFailed(problem, SPEC).error)), SPEC)


@pytest.mark.parametrize(
    "problem", [Plain(), Plain("a"), Plain("a", 5, ["x"]), OutOfStock("pen", 3), Described("pen", 3)]
)
def test_declared_exceptions_arrive_as_themselves(problem: Exception) -> None:
    found = travelled(problem)
    assert type(found) is type(problem)
    assert (str(found), found.args, vars(found)) == (str(problem), problem.args, vars(problem))


def test_what_derives_from_a_declared_one_arrives_as_that() -> None:
    found = travelled(Deeper("pen", 3))
    assert (type(found), str(found)) == (OutOfStock, "3 of pen are left")


def test_others_arrive_with_their_type_and_text() -> None:
    found = travelled(KeyError("x"))
    assert isinstance(found, RemoteServiceError)
    assert (found.type, found.reason, str(found)) == ("KeyError", "'x'", "KeyError: 'x'")


def test_what_is_not_plain_stays_where_it_is() -> None:
    problem = OutOfStock("pen", 3)
    problem.handle, problem._own, problem.args = object(), 5, ("text", object())  # type: ignore[attr-defined]
    found = travelled(problem)
    assert vars(found) == {"item": "pen", "left": 3}
    assert str(found).startswith("('text', <object")


def test_no_secret_of_an_address_is_in_what_travels() -> None:
    error = MethodFailed(ValueError("no way to amqp://joe:geheim@host/"), SPEC).error
    assert error["reason"] == "no way to amqp://joe:***@host/"


@pytest.mark.parametrize("error", [{}, {"type": 5, "reason": None}, {"type": "x\n\x1b", "args": 7}])
def test_any_error_can_be_read(error: dict[str, Any]) -> None:
    assert "\n" not in str(raised(error, SPEC))


@pytest.mark.parametrize("data", [{"__class__": 5}, {"_x": 1}, {"a b": 1}, {5: 1}, 7])
def test_no_attribute_is_set_that_an_exception_does_not_send(data: Any) -> None:
    found = raised({"type": "Plain", "reason": "x", "data": data}, SPEC)
    assert (type(found), vars(found), str(found)) == (Plain, {}, "x")


CALL = Call("store", "failing", SPEC, [], {}, 5, {})


@pytest.mark.parametrize(
    ("problem", "status", "kind", "handed_over"),
    [
        (InvalidPayload("bad"), 400, RemoteServiceError, None),
        (Rejected("bad"), 400, RemoteServiceError, None),
        (PayloadTooLarge(5, 3), 413, RemoteServiceError, None),
        (LocalServiceError("there is no method 'x'"), 404, RemoteServiceError, None),
        (AuthorizationError("who"), 401, AuthorizationError, None),
        (AuthorizationError("not you", known=True), 403, AuthorizationError, None),
        (ServiceTimeout("late"), 504, ServiceTimeout, True),
        (Unavailable("stopping"), 503, ServiceCommunicationError, False),
        (RuntimeError("a secret"), 500, ServiceCommunicationError, True),
    ],
)
def test_refusals_have_a_status_and_are_told_to_the_caller(
    problem: Exception, status: int, kind: type[Exception], handed_over: bool | None
) -> None:
    assert status_of(problem) == status
    found = refused(CALL, "dispatch-json", "http://joe:geheim@h:1", status, refusal(problem))
    assert type(found) is kind
    assert "Failing.call of the component 'store' over dispatch-json at http://joe:***@h:1: " in str(found)
    assert "a secret" not in str(found)
    assert getattr(found, "handed_over", None) is handed_over
    assert getattr(found, "known", status == 403) is (status == 403)


def test_a_refusal_of_somebody_else_says_its_status() -> None:
    found = refused(CALL, "rest", "", 502, {})
    assert str(found) == (
        "Failing.call of the component 'store' over rest: the server answered with the HTTP status 502"
    )
