"""The installed version, which pop-config reads for ``evbus --version``, and its name elsewhere."""

from __future__ import annotations

__all__ = ["DISTRIBUTION", "install_command", "version"]

version = "0.1.0"

#: The name of the distribution. Package and command are ``evbus``, which on an index is another project.
DISTRIBUTION = "evbus-hub"


def install_command(extra: str) -> str:
    """Return the command that installs evbus with one of its extras, for the sentences that miss it."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
