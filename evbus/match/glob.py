import fnmatch

from evbus.engine.kit.topics import ends_of_glob


def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` matches a shell pattern: ``*``, ``?``, ``[abc]``, ``[!abc]``.

    The whole name has to match, and case counts on every system. There is no character that a ``*``
    stops at: ``orders.*`` matches ``orders.eu.paid``.
    """
    return fnmatch.fnmatchcase(name, pattern)


def ends(hub, pattern: str) -> tuple[str, str]:
    """Return the prefix of every name that matches, and the suffix that follows it."""
    return ends_of_glob(pattern)
