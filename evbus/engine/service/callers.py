"""What makes calls over HTTP; imported when it is needed, as it needs the extra ``service``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evbus.errors import MissingExtra

if TYPE_CHECKING:
    from evbus.engine.service.http import HttpCaller
    from evbus.engine.service.settings import HttpSettings

__all__ = ["http_caller", "missing"]

_PACKAGES = ("httptools", "starlette", "uvicorn")


def http_caller(channel: str, settings: HttpSettings) -> HttpCaller:
    """Return what makes the calls of a channel: ``dispatch-json``, ``dispatch-msgpack`` or ``rest``.

    :raises MissingExtra: a package of the extra ``service`` is not installed.
    """
    try:
        from evbus.engine.service import encoding, http, rest_caller
    except ModuleNotFoundError as exc:
        raise missing(exc, f"the channel {channel}") from exc
    if channel == "rest":
        return rest_caller.RestCaller(channel, settings)
    kind = encoding.JSON if channel == "dispatch-json" else encoding.MSGPACK
    return http.HttpCaller(channel, kind, settings)


def missing(problem: ModuleNotFoundError, what: str) -> Exception:
    """Return what to raise of a module that cannot be imported: as a rule that the extra is missing."""
    package = (problem.name or "").partition(".")[0]
    return MissingExtra(what, package=package, extra="service") if package in _PACKAGES else problem
