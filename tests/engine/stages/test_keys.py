"""Keys as they are written; whatever is wrong with one, its secret is not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from evbus.engine.stages.keys import read_keys
from evbus.errors import SettingsError

SECRET = "hush-hush-hush-hush"  # 19 bytes


def refused(*entries: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_keys(entries)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_keys_are_read_in_their_order() -> None:
    keys = read_keys((f"2026-07:{SECRET}", f" b.c_d : {SECRET}:x ".replace(" : ", ":")))
    assert [(key.id, key.secret) for key in keys] == [
        ("2026-07", SECRET.encode()),
        ("b.c_d", f"{SECRET}:x".encode()),
    ]


def test_a_file_holds_a_key_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"\ufeff# the current one\n  new:{SECRET}\n\nold:{SECRET}2\r\n", encoding="utf-8")
    keys = read_keys((f"@{path}", f"older:{SECRET}"))
    assert [key.id for key in keys] == ["new", "old", "older"]
    assert keys[1].secret == f"{SECRET}2".encode()


def test_a_file_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "keys").write_text(f"a:{SECRET}")
    assert [key.id for key in read_keys(("@~/keys",))] == ["a"]


def test_a_secret_has_at_least_16_bytes() -> None:
    assert read_keys(("a:0123456789abcdef", "b:éééééééé"))
    assert refused("a:hush56789abcdef") == (
        "evbus.sign_keys[0]: the secret of the key 'a' has 15 bytes, and 16 are the least"
    )


@pytest.mark.parametrize("entry", [SECRET, f":{SECRET}", f"a b:{SECRET}", f"{'a' * 65}:{SECRET}", ""])
def test_what_is_no_key_is_refused_without_showing_it(entry: str) -> None:
    assert refused(f"a:{SECRET}", entry).startswith("evbus.sign_keys[1]: this is no key; write id:secret")


def test_two_keys_of_one_id_are_refused() -> None:
    assert refused(f"a:{SECRET}", f"a:{SECRET}2") == (
        "evbus.sign_keys[1]: there are two keys with the id 'a'"
    )


@pytest.mark.parametrize("entries", [(), None])
def test_no_key_at_all_is_refused(entries: tuple[str, ...] | None) -> None:
    with pytest.raises(SettingsError, match="needs a key"):
        read_keys(entries)


def test_a_file_that_is_not_usable_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    place = f"evbus.sign_keys[0]: {path}"
    assert refused(f"@{path}") == f"{place} cannot be read: No such file or directory"
    path.write_bytes(b"a:\xff" + SECRET.encode())
    assert refused(f"@{path}") == f"{place} is no text in UTF-8"
    path.write_text(f"\n{SECRET}")
    assert refused(f"@{path}").startswith(f"{place}:2: this is no key")
    path.write_text("# nothing")
    assert "needs a key" in refused(f"@{path}")
    path.write_text(f"a:{SECRET}" * 10_000)
    assert refused(f"@{path}") == f"{place} has more than 65536 bytes, and is no file of keys"
