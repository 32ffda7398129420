"""What a method asks of those who call it from outside."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ACCESS", "OPEN", "Access"]

#: The attribute of methods and interfaces that keeps their :class:`Access`.
ACCESS = "__evbus_access__"


class Access(NamedTuple):
    """Who may call a method from outside.

    :ivar scopes: what a caller needs, all of them.
    :ivar anonymous: anybody may, also who does not say who he is.
    :ivar declared: ``@authorize`` stands on the method or its interface.
    """

    scopes: tuple[str, ...] = ()
    anonymous: bool = False
    declared: bool = False


#: What holds without ``@authorize``: anybody who is known, where callers are asked.
OPEN = Access()
