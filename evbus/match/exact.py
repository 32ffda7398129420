def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` and ``pattern`` are the same text."""
    return name == pattern


def ends(hub, pattern: str) -> tuple[str, str]:
    """Return the prefix of every name that matches, and the suffix that follows it."""
    return pattern, ""
