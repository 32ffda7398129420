def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` and ``pattern`` are the same text."""
    return name == pattern


def ends(hub, pattern: str) -> tuple[str, str]:
    """Return what every name that matches begins with, and what it ends with behind that."""
    return pattern, ""
