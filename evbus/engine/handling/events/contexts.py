"""The contexts in which listeners run: what one of them sets is not for the others, nor for the program.

The settings by which Decimals are calculated are one object for all copies of a context: these are made anew.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

__all__ = ["apart", "present_context", "set_decimals", "unspoilt"]


def _decimal_variable() -> ContextVar[decimal.Context]:
    context = Context()
    context.run(decimal.getcontext)
    return next(iter(context))


_DECIMAL = _decimal_variable()


def present_context() -> Context:
    """Return a copy of the present context for workers.

    It holds settings for Decimals only if those of the program are not Python's own.
    """
    present = copy_context()
    settings = present.get(_DECIMAL)
    if settings is None:
        return present
    settings = settings.copy()
    settings.clear_flags()
    made = Context()
    for variable, value in present.items():
        if variable is not _DECIMAL:
            made.run(variable.set, value)
    if repr(settings) != repr(decimal.DefaultContext):
        made.run(decimal.setcontext, settings)
    return made


def set_decimals(clean: Context) -> None:
    """Let what runs now calculate with Decimals by a copy of the settings in a context, if there are any."""
    settings = clean.get(_DECIMAL)
    if settings is not None:
        decimal.setcontext(settings.copy())


def apart(context: Context, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ``call`` by settings for Decimals of its own, in copies of a context."""
    if _DECIMAL not in context:
        return call

    def called(*given: Any) -> Any:
        set_decimals(context)
        return call(*given)

    return called


def unspoilt(context: Context, clean: Context) -> bool:
    """Return whether the next handler may run in the context of one that has changed it.

    It may where that has merely calculated with Decimals: the settings for that are as they were then.
    """
    own = clean.get(_DECIMAL)
    if len(context) != len(clean) + (own is None) or _DECIMAL not in context:
        return False
    for variable, value in clean.items():
        if context.get(variable) is not value and variable is not _DECIMAL:
            return False
    decimal.setcontext(decimal.DefaultContext if own is None else own.copy())
    return True
