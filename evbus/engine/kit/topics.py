"""Patterns of names as of AMQP topics: words between dots, ``*`` for one, ``#`` for any number of them.

AMQP 0-9-1, section 3.1.3.3: the topic exchange type. And how what matches such a pattern begins and ends, and
what matches a shell pattern or a regular expression.
"""

from __future__ import annotations

import itertools
import re

from evbus.errors import ProfileError

__all__ = ["check_template", "ends", "ends_of_expression", "ends_of_glob", "is_pattern", "key_of", "matches"]

_WILDCARDS = frozenset("*#")
_GLOB = re.compile(r"[*?[\]]")
_ATOMS = re.compile(r"\\.|.", re.DOTALL)
#: Parts of a regular expression that stand for themselves, with or without a backslash.
_LITERAL = re.compile(r"[\w\-/:@,;=!%&~'\"<> ]|\\\W")
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


def ends(pattern: str) -> tuple[str, str]:
    """Return the prefix of every name that matches, and the suffix that follows it."""
    words = pattern.split(".")
    wild = [place for place, word in enumerate(words) if word in _WILDCARDS]
    if not wild:
        return pattern, ""
    first, last = ".".join(words[: wild[0]]), ".".join(words[wild[-1] + 1 :])
    # No word at all has no dot either.
    return (
        f"{first}." if first and words[wild[0]] == "*" else first,
        f".{last}" if last and words[wild[-1]] == "*" else last,
    )


def ends_of_glob(pattern: str) -> tuple[str, str]:
    """Return for a shell pattern what :func:`ends` returns for one of topics."""
    parts = _GLOB.split(pattern)
    return (parts[0], parts[-1]) if any(sign in pattern for sign in "*?[") else (pattern, "")


def ends_of_expression(pattern: str) -> tuple[str, str]:
    """Return for a regular expression what :func:`ends` returns for a pattern of topics, or less."""
    if "|" in pattern or pattern.startswith("(?"):
        return "", ""  # it may be something else, or letters may be others
    atoms = _ATOMS.findall(pattern)
    first = list(itertools.takewhile(_LITERAL.fullmatch, atoms))
    left = atoms[len(first) :]
    if left and left[0] in "*+?{":
        del first[-1:]
    last = list(itertools.takewhile(_LITERAL.fullmatch, reversed(left)))
    # What follows a letter behind a backslash may be part of it: \x41.
    if len(last) < len(left) and left[-1 - len(last)].startswith("\\"):
        last = []
    return "".join(atom[-1] for atom in first), "".join(atom[-1] for atom in reversed(last))


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


def key_of(template: str | None, name: str) -> str:
    """Return the routing key that a profile's template makes of a name, or of a pattern of names.

    :raises ProfileError: it is a pattern, and the template does not keep names apart.
    """
    if template is None or not name:
        return name
    check_template(template, name, "routing_key")
    return template.format(routing_key=name, profile="*")
