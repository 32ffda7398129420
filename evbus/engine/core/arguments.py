"""The positional order of a put, which is one on the hub and on every handle of a bus."""

from __future__ import annotations

import functools
import logging
from typing import Any

__all__ = ["put_arguments"]

log = logging.getLogger("evbus.broker")


def put_arguments(
    args: tuple[Any, ...], routing_key: Any, body: Any, profile: Any, headers: Any
) -> tuple[Any, Any, Any, Any]:
    """Return ``(routing_key, body, profile, headers)`` of a put with positional arguments.

    pop-evbus 4 had ``(routing_key, body, profile)``, 6 and 7 had ``(body, profile)``. A single argument is
    the body, as only 6 and 7 allowed it; of two the first is the body when it is no string. Of two strings
    the first is the routing key, which is told once where the second looks like the name of a profile.
    """
    given = {"routing_key": routing_key, "body": body, "headers": headers}
    given = {name: value for name, value in given.items() if value is not None}
    if profile != "default":
        given["profile"] = profile
    names: tuple[str, ...] = ("routing_key", "body", "profile", "headers")
    if len(args) == 1 and body is None:
        names = ("body",)
    elif len(args) == 2 and args[0] is not None and not isinstance(args[0], str):
        names = ("body", "profile")
    elif len(args) == 2 and args[1] == "default" and profile == "default":
        _tell_order()
    if len(args) > len(names):
        raise TypeError(f"put takes at most {len(names)} positional arguments, but {len(args)} were given")
    named = dict(zip(names, args))  # noqa: B905 - fewer arguments than names are the rule
    twice = named.keys() & given.keys()
    if twice:
        raise TypeError(f"put got several values for {', '.join(sorted(twice))}")
    merged = {"routing_key": None, "body": None, "profile": "default", "headers": None, **given, **named}
    return merged["routing_key"], merged["body"], merged["profile"], merged["headers"]


@functools.cache
def _tell_order() -> None:
    log.warning(
        "put(text, 'default') puts the body 'default' with a routing key; for a body and its profile, as in "
        "pop-evbus 6 and 7, write put(body=..., profile='default')"
    )
