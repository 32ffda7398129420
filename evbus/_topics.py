"""Patterns of names as of AMQP topics: words between dots, ``*`` for one, ``#`` for any number of them.

AMQP 0-9-1, section 3.1.3.3: the topic exchange type.
"""

from __future__ import annotations

import re

from evbus.errors import ProfileError

__all__ = ["check_template", "is_pattern", "matches"]

_WILDCARDS = frozenset("*#")
_WHOLE_WORDS = re.compile(r"(?:^|[./])\{routing_key\}(?:$|\.)")


def is_pattern(name: str) -> bool:
    """Return whether a name stands for several: ``*`` or ``#`` is a word of it."""
    return not _WILDCARDS.isdisjoint(name.split("."))


def matches(name: str, pattern: str) -> bool:
    """Return whether the whole of a name matches a pattern; ``""`` has no words."""
    words = name.split(".") if name else []
    # How many words may have been used up by the part of the pattern that was looked at.
    used = {0}
    for wanted in pattern.split(".") if pattern else ():
        if wanted == "#":
            used = set(range(min(used), len(words) + 1))
        else:
            used = {n + 1 for n in used if n < len(words) and wanted in ("*", words[n])}
        if not used:
            return False
    return len(words) in used


def check_template(template: str, name: str, path: str) -> None:
    """Refuse to listen to a pattern where a template does not keep the words of names apart.

    :param path: the key of the profile whose value the template is.
    :raises ProfileError: says what would be right.
    """
    if is_pattern(name) and not _WHOLE_WORDS.search(template):
        raise ProfileError(
            f"nobody can listen to the pattern {name!r} where events go to {template!r}: that needs "
            "{routing_key} between dots, such as 'shop.{routing_key}'",
            path=path,
        )
