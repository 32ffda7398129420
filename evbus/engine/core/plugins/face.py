"""Calls through the hub without POP's detours, where nothing would notice.

POP reaches a plugin function through attributes that are made up on the fly, and through a wrapper that
looks for parameter aliases in every call: some ten microseconds. Where no contract watches a function,
the plain function with the hub in front is all that would have been called.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

import pop.contract

__all__ = ["Direct", "direct", "shorten", "watched"]


class Direct(functools.partial, pop.contract.Contracted):  # type: ignore[misc,type-arg]
    """POP's ``Contracted`` for a function without contracts, as a partial: C does the call.

    It has all that POP gives its wrapper: ``func``, ``hub``, ``ref``, ``signature``, ``contracts``,
    ``__name__`` and the repr.
    """

    def __new__(cls, contracted: pop.contract.Contracted) -> Self:
        """Make the partial: the plain function with the hub in front."""
        return super().__new__(cls, contracted.func, contracted.hub)

    def __init__(self, contracted: pop.contract.Contracted) -> None:
        # Contracted.__init__ would set ``func``, which a partial has of its own.
        self.__dict__.update({name: value for name, value in vars(contracted).items() if name != "func"})
        self._kind = type(contracted).__name__

    def __repr__(self) -> str:
        return f"<{self._kind} func={self.func.__module__}.{self.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.hub, self.ref, self.__name__))


def _restore(hub: Any, ref: str, name: str) -> Any:
    return hub[ref][name]


def watched(function: pop.contract.Contracted) -> bool:
    """Return whether a contract runs before, after or instead of ``function``."""
    return any(function.contract_functions.values())


def direct(function: Any) -> Callable[..., Any]:
    """Return the callable behind a function on the hub, for loops: around POP unless a contract watches it.

    Of an asynchronous generator that is watched it is one that closes what it wraps when it is closed, which
    POP's wrapper leaves to the event loop.
    """
    if isinstance(function, pop.contract.Contracted) and not watched(function):
        return functools.partial(function.func, function.hub) if function.implicit_hub else function.func
    if isinstance(function, pop.contract.ContractedAsyncGen):
        return functools.partial(_generated, function)
    return function  # type: ignore[no-any-return]


async def _generated(function: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
    """Do as ``ContractedAsyncGen.__call__`` does, and close what it is made of, that of ``call_`` first."""
    last, watching = None, function.contract_functions
    async with contextlib.AsyncExitStack() as opened:

        @functools.wraps(function.func)
        def plain(*args: Any, **kwargs: Any) -> Any:
            made = function.func(*args, **kwargs)
            opened.push_async_callback(made.aclose)
            return made

        if function.implicit_hub:
            args = (function.hub, *args)
        ctx = pop.contract.ContractedContext(
            plain, args, kwargs, function.signature, function.ref, function.__name__
        )
        for before in watching["pre"]:
            result = before(ctx)
            if inspect.iscoroutine(result):
                function.hub.pop.contract.process_pre_result(await result, before, function)
        made = direct(watching["call"][0])(ctx) if watching["call"] else plain(*ctx.args, **ctx.kwargs)
        async with contextlib.aclosing(made):
            async for last in made:
                yield last
    for after in watching["post"]:
        ctx.ret = last
        result = after(ctx)
        result = await result if inspect.iscoroutine(result) else result
        last = last if result is None else result


def shorten(module: Any, name: str) -> None:
    """Make ``module.name`` a real attribute, and a :class:`Direct` if no contract watches it.

    Without the attribute every access fails first, with an exception made and thrown away, before POP
    looks where the function is.
    """
    function = module._attrs[name]
    if not watched(function):
        function = Direct(function)
        module._attrs[name] = module._funcs[name] = function
    setattr(module, name, function)
