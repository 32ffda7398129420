"""What counts as a secret, and that none of it, nor a line break, gets into a text."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.kit.redact import (
    MASK,
    is_secret_name,
    one_line,
    problem_text,
    redact,
    said,
    secrets_of,
    text_of,
)


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "PASSWORD",
        "db_password",
        "passwd",
        "client_secret",
        "token",
        "access-token",
        "api_key",
        "X-Api-Key",
        "apikey",
        "private_key",
        "credentials",
        "Authorization",
        "Proxy-Authorization",
        "acct_key",
        "key",
        "login_pass",
        "passcode",
    ],
)
def test_the_value_under_a_secret_name_is_a_secret(key: str) -> None:
    assert secrets_of({"profile": {key: "hunter22"}}) == {"hunter22"}
    assert is_secret_name(key)


@pytest.mark.parametrize(
    "key", ["routing_key", "client_key", "user", "url", "monkey", "keys_file", "passive"]
)
def test_the_value_under_another_name_is_none(key: str) -> None:
    assert secrets_of({key: "hunter22"}) == frozenset()


def test_secrets_are_found_at_any_depth_below_a_secret_name() -> None:
    data = {"a": [{"b": ({"secret": ["first", {"any": "second"}]},)}], "c": {"password": b"third"}}
    assert secrets_of(data) == {"first", "second", "third"}


def test_short_values_and_other_types_are_left_out() -> None:
    assert secrets_of({"password": "abc", "token": None, "secret": 12345, "key": True}) == frozenset()
    assert secrets_of(None) == secrets_of("plain text") == frozenset()


def test_the_password_of_a_url_is_a_secret_in_every_form() -> None:
    found = secrets_of({"url": "amqp://guest:p%40ssword@host:5672/vhost"})
    assert found == {"guest:p%40ssword", "p%40ssword", "guest:p@ssword", "p@ssword"}


def test_a_url_without_password_holds_none() -> None:
    assert secrets_of({"url": "https://user@host:8080/a@b?x=1", "b": "http://host:80/p:q@r"}) == frozenset()


@pytest.mark.parametrize(
    ("data", "secrets"),
    [
        ({"url": "https://ghp_0123456789abcdef@host/x"}, {"ghp_0123456789abcdef"}),
        (["https://host/x?access_token=abcdef&page=second&sig=s1gn"], {"abcdef", "s1gn"}),
        ({"headers": {"Authorization": "Bearer abcdef"}}, {"Bearer abcdef", "abcdef"}),
    ],
    ids=["a token in place of the user", "query values", "credentials without their scheme"],
)
def test_parts_of_values_are_secrets(data: Any, secrets: set[str]) -> None:
    assert secrets_of(data) == secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to amqp://user:pa55word@host:1/v failed", "to amqp://user:***@host:1/v failed"),
        ("amqp://u:p@ss@host", "amqp://u:***@host"),
        ("amqp://u:p/a?b#c@host", "amqp://u:***@host"),
        ("redis://:pa55@host", "redis://:***@host"),
        ("a://u:p1@h,b://u:p2@h", "a://u:***@h,b://u:***@h"),
        ("'a://u:p1@h' and x@y", "'a://u:***@h' and x@y"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("http://host/x?token=abc&page=1", "http://host/x?token=***&page=1"),
        ("http://host/x?page=1&client_secret=abc#top", "http://host/x?page=1&client_secret=***#top"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_passwords_of_urls_are_masked_in_any_text(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_given_secrets_are_masked_also_percent_encoded() -> None:
    assert redact("p@ss/word p%40ss%2Fword p%40ss%2fword p%40ss/word", ["p@ss/word"]) == " ".join([MASK] * 4)


def test_the_longer_secret_is_masked_whole() -> None:
    assert redact("abcdefgh", ["abcd", "abcdefgh"]) == MASK


def test_a_single_string_and_empty_secrets_are_understood() -> None:
    assert redact("say hunter22", "hunter22") == "say ***"
    assert redact("say it", ["", "x" * 10]) == "say it"


def test_a_secret_that_cannot_be_encoded_does_not_break_masking() -> None:
    assert redact("a \ud800bcd", ["\ud800bcd"]) == "a ***"


@given(st.text(), st.lists(st.text(min_size=4)))
def test_no_given_secret_survives(text: str, secrets: list[str]) -> None:
    shown = redact(text + "".join(secrets), secrets)
    assert [secret for secret in secrets if secret in shown and "*" not in secret] == []


@pytest.mark.parametrize(
    "text", ["://u:" * 20_000, "?token" * 20_000, "?" + "token" * 20_000, "a://" * 20_000]
)
def test_hostile_texts_come_back(text: str) -> None:
    assert redact(text) == text
    assert secrets_of({"url": text}) == frozenset()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("nul\x00 del\x7f c1\x9b", "nul\\x00 del\\x7f c1\\x9b"),
        ("\u2028\u2029\u202e\ud800", "\\u2028\\u2029\\u202e\\ud800"),
        ("grüße 中文 😀", "grüße 中文 😀"),
        ("", ""),
    ],
)
def test_a_foreign_text_becomes_one_printable_line(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("x" * 500, {}, "x" * 500),
        ("x" * 501, {}, "x" * 497 + "..."),
        ("\n" * 8, {"limit": 10}, "\\n\\n\\n\\" + "..."),
        ("long", {"limit": 2}, ".."),
    ],
    ids=["fits", "too long", "escapes", "hardly any room"],
)
def test_a_line_is_never_longer_than_its_limit(text: str, options: dict[str, int], line: str) -> None:
    assert one_line(text, **options) == line


@given(st.text(), st.integers(min_value=0, max_value=40))
def test_every_text_makes_exactly_one_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert line.encode().decode() == line


def test_any_object_has_a_line() -> None:
    assert one_line(ValueError("a\nb")) == "a\\nb"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (ValueError("two\nlines"), "ValueError: two\\nlines"),
        (Mute(), "Mute: (its text cannot be had: RuntimeError)"),
        (OSError("no amqp://ann:hunter22@host/"), f"OSError: no amqp://ann:{MASK}@host/"),
    ],
)
def test_an_exception_is_told_in_one_line_whatever_it_is(problem: Exception, text: str) -> None:
    assert problem_text(problem) == text


def test_a_group_of_exceptions_says_what_each_of_them_is() -> None:
    group = vars(builtins)["ExceptionGroup"]
    text = said(group("in a TaskGroup", [KeyError("http://a:hunter22@b/"), group("two", [ValueError("b")])]))
    assert text == (
        f"in a TaskGroup (2 sub-exceptions): KeyError: 'http://a:{MASK}@b/'; "
        "ExceptionGroup: two (1 sub-exception): ValueError: b"
    )


class Silent(KeyError):
    def __str__(self) -> str:
        return "no such order"


@pytest.mark.parametrize(
    ("problem", "reason", "typed", "text"),
    [
        (ValueError("down"), "down", "ValueError: down", "down"),
        (KeyError("id"), "KeyError: 'id'", "KeyError: 'id'", "'id'"),
        (Silent("id"), "no such order", "Silent: no such order", "no such order"),
        (AssertionError(), "AssertionError", "AssertionError", ""),
        (AssertionError("3 are right"), "3 are right", "AssertionError: 3 are right", "3 are right"),
        (StopIteration(3), "StopIteration: 3", "StopIteration: 3", "3"),
        (Exception("a", 1), "Exception: ('a', 1)", "Exception: ('a', 1)", "('a', 1)"),
        (
            OSError(2, "No such file"),
            "[Errno 2] No such file",
            "FileNotFoundError: [Errno 2] No such file",
            None,
        ),
        (RuntimeError(""), "RuntimeError", "RuntimeError", ""),
    ],
)
def test_the_type_of_an_exception_is_told_where_its_text_says_nothing(
    problem: Exception, reason: str, typed: str, text: str | None
) -> None:
    assert said(problem) == reason
    assert problem_text(problem) == typed
    assert text_of(problem) == (reason if text is None else text)
