"""Paths that a person wrote."""

from __future__ import annotations

from pathlib import Path

from evbus.errors import ConfigError

__all__ = ["expanded"]


def expanded(path: str | Path, what: str) -> Path:
    """Return a path with its ``~`` or ``~user`` written out.

    :param what: what it is of, for errors.
    :raises ConfigError: there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{what}: {path}: there is no home directory for its '~'; set HOME, or write the path without it"
        ) from None
