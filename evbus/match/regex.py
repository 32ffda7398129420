import re

from evbus.engine.kit.topics import ends_of_expression


def find(hub, name: str, pattern: str) -> bool:
    """Return whether the whole of ``name`` matches the regular expression ``pattern`` (``re.fullmatch``).

    :raises re.error: the pattern is no regular expression.
    """
    return re.fullmatch(pattern, name) is not None


def ends(hub, pattern: str) -> tuple[str, str]:
    """Return the prefix of every name that matches, and the suffix that follows it."""
    return ends_of_expression(pattern)
