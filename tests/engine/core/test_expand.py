"""Environment variables and files in profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.expand import LARGEST, expanded
from evbus.errors import ProfileError
from tests.evbus.rig import failure

ENVIRON = {"HOST": "rabbit", "EMPTY": "", "PASS_WORD": "s3cret$${HOST}"}


def read(data: Any) -> Any:
    return expanded(data, ENVIRON, source="p.yml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${HOST}", "rabbit"),
        ("amqp://joe:${PASS_WORD}@${HOST}/", "amqp://joe:s3cret$${HOST}@rabbit/"),
        ("${NONE:-here}", "here"),
        ("${EMPTY:-here}", "here"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b}", "a:-b"),
        ("$${HOST}", "${HOST}"),
        ("$HOST {HOST} $ {routing_key}", "$HOST {HOST} $ {routing_key}"),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert read({"a": {"b": [text]}}) == {"a": {"b": [value]}}


def test_keys_and_what_is_no_text_stay_as_they_are() -> None:
    data = {"${HOST}": {1: 2, "x": None, "y": True, "z": (1.5,)}}
    assert read(data) == {"${HOST}": {1: 2, "x": None, "y": True, "z": [1.5]}}


def test_files_hold_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the file ${HOST}\n\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    data = {
        "password": f"file:{secret}",
        "token": f"file://{secret}",
        "secret": [f"file:{secret}", "file:~/secret"],
        "path": f"file:{secret}",
        "url": f"amqp://joe:${{file:{secret}}}@x",
    }
    text = "of the file ${HOST}"
    assert read(data) == {
        "password": text,
        "token": text,
        "secret": [text, text],
        "path": f"file:{secret}",
        "url": f"amqp://joe:{text}@x",
    }


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"url": "x${NONE}"},
            "p.yml: a.url: there is no environment variable NONE; set it, write ${NONE:-default}, or",
        ),
        (
            {"l": ["", "${A B}"]},
            "p.yml: a.l[1]: ${A B} is none of ${NAME}, ${NAME:-default} and ${file:path}; write $${",
        ),
        ({"url": "${}"}, "p.yml: a.url: ${} is none of"),
        ({"url": "${HOME/x"}, "p.yml: a.url: a ${ has no } of its own; write $${ for ${"),
        ({"url": "${HOME:-{x}}"}, "p.yml: a.url: a ${ has no } of its own; write $${ for ${"),
        (
            {"password": "file:/no/such"},
            "p.yml: a.password: the file /no/such cannot be read: No such file or directory",
        ),
        (
            {"url": "${file:/no/such}"},
            "p.yml: a.url: the file /no/such cannot be read: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_had_is_told_with_the_key(data: Any, sentence: str) -> None:
    assert failure(ProfileError, read, {"a": data}).startswith(sentence)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "cannot be read: it is no text in UTF-8"),
        (b"x" * (LARGEST + 1), "is too large for a secret"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ProfileError, match=why):
        read({"password": f"file:{tmp_path / 'secret'}"})
