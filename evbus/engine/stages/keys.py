"""The keys of the option ``sign_keys``. None of its errors, and no repr, holds a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from evbus.engine.kit.paths import expanded
from evbus.errors import SettingsError

__all__ = ["SHORTEST", "SignKey", "read_keys"]

#: Least bytes of a secret (128 bits).
SHORTEST = 16

#: Most bytes of a file of keys.
_LARGEST = 65_536

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORM = "write id:secret, such as 2026-07:<at least 16 random characters>, or @path of a file with such lines"


class SignKey(NamedTuple):
    """A key by its id, which messages name, and its secret, which nothing names."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"<Key {self.id}>"


def read_keys(entries: Sequence[str] | None) -> tuple[SignKey, ...]:
    """Return the keys in their order: the first signs, all verify.

    :param entries: ``id:secret`` or ``@path`` each; a file holds a key in each line, and nothing in empty
        lines and in those that begin with ``#``.
    :raises SettingsError: there is none, or one is not usable.
    """
    keys: dict[str, SignKey] = {}
    for place, text in _lines(entries or ()):
        key = _key(place, text)
        if key.id in keys:
            raise SettingsError(f"{place}: there are two keys with the id {key.id!r}")
        keys[key.id] = key
    if not keys:
        raise SettingsError(f"evbus.sign_keys: the pipeline plugin sign needs a key; {_FORM}")
    return tuple(keys.values())


def _lines(entries: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield where each key stands, and how it is written."""
    for index, entry in enumerate(entries):
        place = f"evbus.sign_keys[{index}]"
        if not entry.startswith("@"):
            yield place, entry
            continue
        path = expanded(entry[1:], place)
        for number, line in enumerate(_text(place, path).splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield f"{place}: {path}:{number}", line


def _text(place: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) <= _LARGEST:
            return data.decode("utf-8-sig")
    except OSError as exc:
        raise SettingsError(f"{place}: {path} cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{place}: {path} is no text in UTF-8") from None
    raise SettingsError(f"{place}: {path} has more than {_LARGEST} bytes, and is no file of keys")


def _key(place: str, text: str) -> SignKey:
    name, colon, secret = text.strip().partition(":")
    # Without the colon, or with a strange id, what stands there may be the secret itself.
    if not colon or not _ID.fullmatch(name):
        raise SettingsError(
            f"{place}: this is no key; {_FORM} (an id is up to 64 letters, digits, '.', '_' and '-')"
        )
    data = secret.strip().encode("utf-8", "surrogateescape")
    if len(data) < SHORTEST:
        raise SettingsError(
            f"{place}: the secret of the key {name!r} has {len(data)} bytes, and {SHORTEST} are the least"
        )
    return SignKey(name, data)
