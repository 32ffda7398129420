import re


def find(hub, name: str, pattern: str) -> bool:
    """Return whether the whole of ``name`` matches the regular expression ``pattern`` (``re.fullmatch``).

    :raises re.error: the pattern is no regular expression.
    """
    return re.fullmatch(pattern, name) is not None
