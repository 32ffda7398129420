"""Names that must not stand twice."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["unique"]


def unique(name: str, taken: Container[str], mark: str = "#") -> str:
    """Return ``name``, or ``name#2``, ``name#3`` and so on if it is taken."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}{mark}{number}"
    return free
