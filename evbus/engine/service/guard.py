"""Who calls from outside, and what he may call."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from evbus.engine.service.access import Access
from evbus.errors import AuthorizationError

__all__ = ["NOBODY", "Caller", "Calling", "Guard", "caller", "check", "check_known"]

_NONE: Mapping[str, Any] = MappingProxyType({})


class Caller(NamedTuple):
    """Who calls from outside.

    :ivar name: the subject of a token, or the name in a certificate; ``""`` for nobody that is known.
    :ivar scopes: what is granted to him.
    :ivar claims: what else his token says; empty without one.
    """

    name: str
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = _NONE

    def __repr__(self) -> str:
        # Claims may hold what is nobody's business.
        return f"<Caller {self.name or 'nobody'}, {', '.join(sorted(self.scopes)) or 'no scopes'}>"


#: Somebody who has not said who he is, where there are methods for that.
NOBODY = Caller("")

_CALLER: ContextVar[Caller | None] = ContextVar("evbus_caller", default=None)


class Guard(Protocol):
    """Says who calls from outside; a transport asks it before it reads what is called."""

    async def caller(
        self, *, authorization: str = "", certificate: Mapping[str, Any] | None = None
    ) -> Caller:
        """Return who calls.

        :param authorization: the value of the header of this name, ``""`` without one.
        :param certificate: that of the other end, as ``ssl.SSLSocket.getpeercert`` has it; None without one.
        :raises AuthorizationError: nobody that is known, and its ``known`` is false.
        """


def caller() -> Caller | None:
    """Return who has called the method that runs, from outside; None where nobody was asked.

    What that method calls in this process sees him as well; what it calls in others does not.
    """
    return _CALLER.get()


class Calling:
    """Has :func:`caller` return somebody in a block. A class, as each call has one."""

    __slots__ = ("_one", "_token")

    def __init__(self, one: Caller | None) -> None:
        self._one = one
        self._token: Token[Caller | None]

    def __enter__(self) -> None:
        self._token = _CALLER.set(self._one)

    def __exit__(self, *raised: object) -> None:
        _CALLER.reset(self._token)


def check_known(one: Caller | None, access: Access | None) -> None:
    """Refuse somebody who has not said who he is, before he learns whether there is what he asks for.

    :param access: of what he asks for, None where there is no such thing.
    :raises AuthorizationError: he has to say who he is.
    """
    if one is not None and not one.name and (access is None or not access.anonymous):
        raise AuthorizationError("who calls is not known: send a token")


def check(one: Caller | None, access: Access, title: str) -> None:
    """Refuse somebody who may not call a method.

    :param one: who calls; None where nobody is asked: then he may call what asks for nothing.
    :raises AuthorizationError: he may not; its ``known`` says whether he has said who he is.
    """
    if access.anonymous or (one is None and not access.declared):
        return
    if one is None:
        raise AuthorizationError(
            f"{title} is for callers that are known, and nobody is asked here; the server needs the "
            "setting auth"
        )
    if not one.name:
        raise AuthorizationError(f"{title} is for callers that say who they are: send a token")
    missing = [scope for scope in access.scopes if scope not in one.scopes]
    if missing:
        raise AuthorizationError(f"{title} asks for the scope {', '.join(missing)}", known=True)
