"""What a docstring says, in the forms of Sphinx (``:param x:``) and of Google (``Args:``)."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

__all__ = ["Docstring", "read_docstring"]

_FIELD = re.compile(r":(\w+)(?:\s+([^:]*))?:\s*(.*)")
_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Returns|Return|Yields|Raises|Example|Examples|Note|Notes):\s*"
)
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
_ARGUMENTS = {"Args", "Arguments", "Parameters"}


class Docstring(NamedTuple):
    """What a docstring says.

    :ivar summary: its first paragraph, in one line.
    :ivar description: the rest without what is said of parameters, result and errors.
    :ivar parameters: what each is, by its name.
    :ivar raises: when each exception is raised, by its name.
    """

    summary: str
    description: str
    parameters: dict[str, str]
    returns: str
    raises: dict[str, str]


def read_docstring(text: str) -> Docstring:
    """Return what a docstring says; what is in neither form stays in the description."""
    parts = _Parts()
    for line in inspect.cleandoc(text).splitlines():
        parts.take(line)
    head, _, rest = "\n".join(parts.free).strip().partition("\n\n")
    return Docstring(
        _line(head), rest.strip(), _lines(parts.parameters), _line(parts.returns), _lines(parts.raises)
    )


class _Parts:
    """A docstring as it is read, line by line.

    :ivar free: lines that belong to nothing else.
    """

    def __init__(self) -> None:
        self.free: list[str] = []
        self.parameters: dict[str, list[str]] = {}
        self.raises: dict[str, list[str]] = {}
        self.returns: list[str] = []
        # Where lines go that are further in than the one that said so.
        self._into: list[str] = self.free
        self._section = ""
        self._indent = 0

    def take(self, line: str) -> None:
        """Read the next line."""
        indent = len(line) - len(line.lstrip())
        field = _FIELD.fullmatch(line)
        section = _SECTION.fullmatch(line)
        if field is not None and self._field(field[1], (field[2] or "").split(), field[3]):
            return
        if section is not None:
            self._begin(section[1], line)
        elif line.strip() and not indent:
            self._section, self._into = "", self.free
            self._into.append(line)
        elif self._section and line.strip():
            self._entry(line, indent)
        else:
            self._into.append(line)

    def _field(self, kind: str, words: list[str], text: str) -> bool:
        if kind in ("param", "parameter", "arg", "argument", "key", "keyword") and words:
            self._into = self.parameters.setdefault(words[-1], [])
        elif kind in ("raises", "raise", "except", "exception") and words:
            self._into = self.raises.setdefault(words[-1], [])
        elif kind in ("return", "returns"):
            self._into = self.returns
        elif kind in ("type", "rtype"):
            self._into = []
        else:
            return False
        self._section = ""
        self._into.append(text)
        return True

    def _begin(self, section: str, line: str) -> None:
        self._indent = 0
        if section in _ARGUMENTS or section in ("Raises", "Returns", "Return", "Yields"):
            self._section = section
            self._into = self.returns
        else:
            self._section, self._into = "", self.free
            self.free.append(line)

    def _entry(self, line: str, indent: int) -> None:
        """Read a line of a section: the first of them says how far in entries stand."""
        self._indent = self._indent or indent
        entry = _ENTRY.fullmatch(line.strip())
        if indent <= self._indent and entry is not None and self._section in (*_ARGUMENTS, "Raises"):
            where = self.raises if self._section == "Raises" else self.parameters
            self._into = where.setdefault(entry[1], [])
            line = entry[2]
        self._into.append(line)


def _line(lines: str | list[str]) -> str:
    return " ".join((lines if isinstance(lines, str) else " ".join(lines)).split())


def _lines(found: dict[str, list[str]]) -> dict[str, str]:
    return {name: _line(lines) for name, lines in found.items()}
