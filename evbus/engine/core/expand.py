"""Environment variables and files of secrets in the text of profiles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evbus.engine.kit.paths import expanded as home
from evbus.engine.kit.redact import is_secret_name, one_line
from evbus.errors import ConfigError, ProfileError

__all__ = ["expanded"]

_PLACE = re.compile(r"\$(\$?)\{([^{}]*)\}")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.DOTALL)
#: Characters of a file that is to hold a secret.
LARGEST = 65_536


def expanded(
    data: Any, environ: Mapping[str, str], *, source: str, path: str = "", secret: bool = False
) -> Any:
    """Return a configuration with values for ``${NAME}``, ``${NAME:-default}`` and ``${file:path}``.

    The default stands for a variable that is not set, or empty. A value under the name of a secret
    (``password``, ``token``, ...) that begins with ``file:`` is what that file holds. ``$${`` stands for
    ``${``. Keys stay as they are.

    :param secret: the key above has the name of a secret.
    :raises ProfileError: a variable is not set, or a file cannot be read; with the path of the key.
    """
    if isinstance(data, Mapping):
        return {
            key: expanded(
                value,
                environ,
                source=source,
                path=f"{path}.{key}" if path else str(key),
                secret=secret or is_secret_name(key),
            )
            for key, value in data.items()
        }
    if isinstance(data, (list, tuple)):
        return [
            expanded(value, environ, source=source, path=f"{path}[{index}]", secret=secret)
            for index, value in enumerate(data)
        ]
    if not isinstance(data, str):
        return data
    try:
        text = data
        if "${" in data:
            if "${" in _PLACE.sub("", data):
                raise ConfigError("a ${ has no } of its own; write $${ for ${")
            text = _PLACE.sub(lambda found: _value(found, environ), data)
        return _read(text.removeprefix("file:")) if secret and data.startswith("file:") else text
    except ConfigError as exc:
        raise ProfileError(str(exc), source=source, path=path) from None


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    escaped, text = found.groups()
    if escaped:
        return found[0][1:]
    if text.startswith("file:"):
        return _read(text.removeprefix("file:"))
    named = _VARIABLE.fullmatch(text)
    if named is None:
        raise ConfigError(
            f"{one_line(found[0], 80)} is none of ${{NAME}}, ${{NAME:-default}} and ${{file:path}}; "
            "write $${ for ${"
        )
    name, has_default, default = named.groups()
    value = environ.get(name)
    if has_default:
        return value or default
    if value is None:
        raise ConfigError(
            f"there is no environment variable {name}; set it, write ${{{name}:-default}}, or $${{ for ${{"
        )
    return value


def _read(name: str) -> str:
    """Return the text of a file, less the line breaks at its end."""
    path = home(name.removeprefix("//"), "file")
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is no text in UTF-8"
        raise ConfigError(f"the file {one_line(path)} cannot be read: {why}") from None
    if len(text) > LARGEST:
        raise ConfigError(
            f"the file {one_line(path)} is too large for a secret: more than {LARGEST} characters"
        )
    return text.rstrip("\r\n")
