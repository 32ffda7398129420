def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` and ``pattern`` are the same text."""
    return name == pattern
