"""Failures of calls: how they travel, and what they are at the other end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from evbus.engine.kit.redact import one_line, problem_text, text_of
from evbus.engine.service.call import Call, where
from evbus.engine.service.method import MethodSpec
from evbus.errors import (
    AuthorizationError,
    DeliveryError,
    EvbusError,
    InvalidResult,
    LocalServiceError,
    PayloadError,
    PayloadTooLarge,
    RemoteServiceError,
    ServiceCommunicationError,
    ServiceTimeout,
    Unavailable,
)

__all__ = ["MethodFailed", "raised", "refusal", "refused", "status_of", "tell_undeclared", "told"]

log = logging.getLogger("evbus.service")

#: The deepest that what is in an exception may nest to travel.
_DEEPEST = 20
_LONGEST = 10_000


class MethodFailed(Exception):
    """A method was called, and raised something.

    :ivar problem: what it raised.
    :ivar declared: the interface says that it may.
    :ivar error: the same as it travels: ``type``, the name of the class; ``reason``, the text; and of
        exceptions that the interface declares, what in them is plain: ``args`` and ``data``, the attributes.
    """

    def __init__(self, problem: Exception, spec: MethodSpec) -> None:
        super().__init__(f"{spec.title}: {text_of(problem)}")
        self.problem = problem
        self.error: dict[str, Any] = {"type": type(problem).__name__, "reason": text_of(problem)}
        declared = next((base for base in type(problem).__mro__ if base in spec.options.raises), None)
        self.declared = declared is not None
        if declared is not None:
            self.error["type"] = declared.__name__
            if all(map(_plain, problem.args)):
                self.error["args"] = list(problem.args)
            data = {name: value for name, value in vars(problem).items() if _travels(name, value)}
            if data:
                self.error["data"] = data


def raised(error: Mapping[str, Any], spec: MethodSpec) -> Exception:
    """Return what a method elsewhere raised, of an ``error`` as :class:`MethodFailed` has it."""
    name, reason = one_line(error.get("type") or "unknown", 200), one_line(error.get("reason", ""), _LONGEST)
    for kind in spec.options.raises:
        if kind.__name__ == name:
            args, data = error.get("args"), error.get("data")
            # Without its __init__, as pickle does: what that takes need not be what it keeps.
            problem = kind.__new__(kind, *(args if isinstance(args, (list, tuple)) else (reason,)))
            if isinstance(data, Mapping):
                vars(problem).update({key: value for key, value in data.items() if _travels(key, value)})
            return problem
    return RemoteServiceError(name, reason)


def told(spec: MethodSpec, failed: MethodFailed) -> Mapping[str, Any]:
    """Return what a caller is told of a failure; of one that nobody has declared, the log tells more."""
    if not failed.declared:
        tell_undeclared(spec, failed)
    return failed.error


def tell_undeclared(spec: MethodSpec, failed: MethodFailed) -> None:
    """Tell in the log what a method has raised that nobody has declared: who called sees no more of it."""
    if isinstance(failed.problem, InvalidResult):
        log.error("%s", failed.problem)  # it names the method, and was raised in none
    else:
        log.error("%s failed: %s", spec.title, problem_text(failed.problem), exc_info=failed.problem)


def status_of(problem: Exception) -> int:
    """Return the HTTP status for a request that is refused; 500 for what is a fault of the server."""
    if isinstance(problem, AuthorizationError):
        return 403 if problem.known else 401
    for kind, status in _STATUS.items():
        if isinstance(problem, kind):
            return status
    return 500


#: More special ones stand first.
_STATUS: dict[type[Exception], int] = {
    PayloadTooLarge: 413,
    PayloadError: 400,
    LocalServiceError: 404,
    ServiceTimeout: 504,
    Unavailable: 503,
    DeliveryError: 400,
}


def refusal(problem: Exception) -> dict[str, str]:
    """Return why a request is refused as it travels; a fault of the server says nothing of itself."""
    if not isinstance(problem, EvbusError):
        return {"type": "ServiceError", "reason": "the server failed; its log says why"}
    return {"type": type(problem).__name__, "reason": text_of(problem)}


def refused(call: Call, channel: str, address: str, status: int, error: Mapping[str, Any]) -> Exception:
    """Return what a caller gets of a request that was refused with an HTTP status.

    :param error: what :func:`refusal` has made, or nothing when it was not evbus that refused.
    """
    place = where(call, channel, address)
    reason = one_line(error.get("reason") or f"the server answered with the HTTP status {status}", _LONGEST)
    if status in (401, 403):
        return AuthorizationError(f"{place}: {reason}", known=status == 403)
    if status == 504:
        return ServiceTimeout(f"{place}: {reason}")
    if status in (429, 503):
        return ServiceCommunicationError(f"{place}: {reason}", handed_over=False)
    if status < 500:
        name = one_line(error.get("type") or f"HTTP {status}", 200)
        return RemoteServiceError(name, f"{place}: {reason}")
    return ServiceCommunicationError(f"{place}: {reason}", handed_over=True)


def _travels(name: Any, value: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_") and _plain(value)


def _plain(value: Any, depth: int = 0) -> bool:
    """Return whether a value comes out of every encoding as what it is."""
    if value is None or type(value) in (bool, int, float, str):
        return True
    if depth > _DEEPEST:
        return False
    if type(value) is list:
        return all(_plain(one, depth + 1) for one in value)
    if type(value) is dict:
        return all(type(key) is str and _plain(one, depth + 1) for key, one in value.items())
    return False
