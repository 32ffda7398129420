"""Where a failure happened, and what it was about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.kit import owner
from evbus.engine.kit.failure import about, place, trace
from evbus.engine.kit.strictjson import load
from evbus.engine.kit.waiting import stray
from evbus.errors import InvalidPayload, Rejected, Unavailable
from evbus.types import Envelope


def raised(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def fails() -> None:
    raise KeyError("k")


FAILS = f"{__file__}:{fails.__code__.co_firstlineno + 1}"


def test_it_is_the_innermost_line_of_users() -> None:
    assert place(raised(fails)) == FAILS


def test_what_python_or_evbus_raise_for_users_is_told_with_their_line() -> None:
    def decodes() -> None:
        json.loads("{")

    def reads() -> None:
        load(b"{")

    for function in (decodes, reads):
        assert place(raised(function)) == f"{__file__}:{function.__code__.co_firstlineno + 1}"


def test_a_library_is_told_only_when_there_is_no_line_of_users(tmp_path: Path) -> None:
    library = tmp_path / "site-packages" / "lib.py"
    code = compile(
        "def call(function=None):\n    return function() if function else 1 / 0\n", library, "exec"
    )
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the test's own text
    problem = raised(names["call"])
    assert problem.__traceback__ is not None
    assert place(problem.with_traceback(problem.__traceback__.tb_next)) == f"{library}:2"
    assert place(raised(lambda: names["call"](fails))) == FAILS


def test_an_error_of_evbus_itself_has_no_place_and_another_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_OURS", str(Path(__file__).parent))
    assert place(raised(fails)) == FAILS

    def refuses() -> None:
        raise Unavailable("down")

    assert place(raised(refuses)) == ""
    assert place(ValueError("never raised")) == ""


def test_one_that_stands_for_others_is_told_by_them() -> None:
    problem = raised(fails)
    assert place(stray(problem)) == FAILS
    outer = Unavailable("cannot be opened")
    outer.__cause__ = problem
    assert place(outer) == FAILS


def test_a_group_is_told_by_its_first() -> None:
    async def fail() -> None:
        fails()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    assert place(raised(lambda: asyncio.run(main()))) == FAILS


def test_what_stands_behind_a_reason() -> None:
    event = Envelope("default", "orders", b"", {"ce-id": "a-1"})
    assert about(raised(fails), "KeyError: 'k'", event) == f" (at {FAILS}, event 'orders', id a-1)"
    assert about(raised(fails), "away", event) == f" (KeyError at {FAILS}, event 'orders', id a-1)"
    assert about(Rejected("no"), "no") == " (Rejected)"
    assert about(Rejected("no"), "Rejected: no") == ""
    nameless = Envelope("shop", "", b"", {"message-id": "m\n1"})
    assert about(InvalidPayload("x"), "x", nameless) == " (InvalidPayload, profile 'shop', id m\\n1)"


def test_a_traceback_holds_no_secret() -> None:
    def connects() -> None:
        raise ConnectionError("amqp://joe:word-of-joe@host refused t0ken-t0ken")

    text = trace(raised(connects), frozenset({"t0ken-t0ken"}))
    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("ConnectionError: amqp://joe:***@host refused ***")
