"""The output of a subcommand: its file or stream, and its format."""

from __future__ import annotations

import json
import os
import re
import select
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evbus.engine.kit.paths import expanded
from evbus.errors import ConfigError, nearest

# What YAML 1.2 takes for a number where PyYAML, which writes YAML 1.1, would leave a text without quotes
# (YAML 1.2.2 section 10.3.2), and js-yaml beyond that: signs before octal numbers, and "_" between digits.
_NUMBER = re.compile(
    r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?0o[0-7_]+|0x[0-9a-fA-F]+"
)

__all__ = ["as_json", "as_yaml", "chosen", "hang_up", "reader_left", "say", "write"]


def chosen(wanted: str | None, path: str | None, formats: Mapping[str, str], default: str) -> str:
    """Return the format that was asked for, or else the one that the name of the file says.

    :param formats: by the endings of files, such as ``{".json": "json"}``.
    :param default: for files without one of these endings, and standard output.
    :raises ConfigError: there is no such format.
    """
    known = sorted(set(formats.values()))
    if wanted is not None and wanted not in known:
        raise ConfigError(f"--format {wanted!r}: there is no such format{nearest(wanted, known)}")
    ending = Path(path).suffix.lower() if path else ""
    return wanted or formats.get(ending, default)


def say(text: str) -> None:
    """Write a text to standard output, if it is not closed."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def write(path: str | None, text: str) -> None:
    """Write a text in UTF-8 to a file, or to standard output if there is none or it is ``-``.

    :raises ConfigError: the file cannot be written, or there is no standard output.
    """
    if path is None or path == "-":
        # Whatever a terminal takes: somebody may be writing a file, or another program be reading.
        if sys.stdout is None:
            raise ConfigError("standard output is closed; name a file with --output")
        sys.stdout.buffer.write(text.encode())
        return
    try:
        expanded(path, "--output").write_text(text, "utf-8")
    except OSError as exc:
        raise ConfigError(f"--output {path}: it cannot be written: {exc.strerror}") from None


def as_json(document: Any) -> str:
    """Return plain values as JSON for people."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_yaml(document: Any) -> str:
    """Return plain values as YAML, without anchors for what stands there twice."""
    return yaml.dump(
        document, Dumper=_Plain, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        style = "'" if _NUMBER.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Plain.add_representer(str, _Plain.text)


def reader_left() -> bool:
    """Return whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False  # there is no standard output, or it is no file


def hang_up() -> None:
    """Let everything that is still printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
