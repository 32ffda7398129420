"""Paths that a person wrote."""

from __future__ import annotations

from pathlib import Path

from evbus.errors import ConfigError

__all__ = ["expanded", "no_home"]


def expanded(path: str | Path, what: str) -> Path:
    """Return a path with its ``~`` or ``~user`` written out.

    :param what: what it is of, for errors.
    :raises ConfigError: there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{what}: {path}: {no_home(path)}, or write the path without it") from None


def no_home(path: str | Path) -> str:
    """Explain why a ``~`` or ``~user`` cannot be written out, and what would help."""
    user = str(path).partition("/")[0][1:]
    if user:
        return f"there is no user {user!r} with a home directory; check the name"
    return "there is no home directory for its '~'; set HOME"
