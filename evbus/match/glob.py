import fnmatch


def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` matches a shell pattern: ``*``, ``?``, ``[abc]``, ``[!abc]``.

    The whole name has to match, and case counts on every system. There is no character that a ``*``
    stops at: ``orders.*`` matches ``orders.eu.paid``.
    """
    return fnmatch.fnmatchcase(name, pattern)
