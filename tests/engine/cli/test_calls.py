"""What is written on the command line, as the arguments of a method."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
from abc import abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from evbus.engine.cli.calls import Arguments, arguments, made_up, read, target, wire_name
from evbus.engine.service.declare import Component, Service, component, service, service_spec
from evbus.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    count: int = 1


@service("cli-shop")
class CliShop(Service):
    @abstractmethod
    async def text(self, it: str) -> None: ...
    @abstractmethod
    async def optional(self, it: str | None = None) -> None: ...
    @abstractmethod
    async def number(self, it: int) -> None: ...
    @abstractmethod
    async def maybe(self, it: int | None) -> None: ...
    @abstractmethod
    async def truth(self, it: bool) -> None: ...
    @abstractmethod
    async def price(self, it: Decimal) -> None: ...
    @abstractmethod
    async def day(self, it: dt.date) -> None: ...
    @abstractmethod
    async def colour(self, it: Colour) -> None: ...
    @abstractmethod
    async def item(self, it: Item) -> None: ...
    @abstractmethod
    async def either(self, it: int | str) -> None: ...
    @abstractmethod
    async def anything(self, it: Any) -> None: ...
    @abstractmethod
    async def names(self, it: list[str]) -> None: ...
    @abstractmethod
    async def items(self, it: list[Item]) -> None: ...
    @abstractmethod
    async def first(self, it: int, /, other: int = 2) -> None: ...
    @abstractmethod
    async def stream(self, it: AsyncIterator[int]) -> None: ...


@component("cli-mall", services=[CliShop])
class CliMall(Component): ...


SPEC = service_spec(CliShop)


def given(method: str, *written: str) -> Arguments:
    return arguments(target(f"CliShop.{method}", [SPEC]).method, read(written))


@pytest.mark.parametrize(
    ("method", "written", "right"),
    [
        ("text", "it=5", "5"),
        ("text", "it=", ""),
        ("text", "it=a=b", "a=b"),
        ("text", 'it:="5"', "5"),
        ("text", "@", None),
        ("optional", "it=null", "null"),
        ("optional", "it:=null", None),
        ("number", "it=-5", -5),
        ("number", "it:=5", 5),
        ("maybe", "it=", None),
        ("maybe", "it:=null", None),
        ("truth", "it=true", True),
        ("truth", "it=0", False),
        ("price", "it=1.10", Decimal("1.10")),
        ("price", "it:=1.10", Decimal("1.10")),
        ("day", "it=2030-01-02", dt.date(2030, 1, 2)),
        ("day", 'it:="2030-01-02"', dt.date(2030, 1, 2)),
        ("colour", "it=red", Colour.RED),
        ("item", 'it={"name": "pen"}', Item("pen")),
        ("either", "it=5", 5),
        ("either", "it:=5", 5),
        ("anything", "it=5", 5),
        ("anything", "it=pen", "pen"),
        ("anything", 'it={"a": [1]}', {"a": [1]}),
        ("names", "it=pen", ["pen"]),
        ("names", 'it=["pen", "ink"]', ["pen", "ink"]),
        ("items", 'it=[{"name": "pen"}]', [Item("pen")]),
    ],
)
def test_a_value_is_of_the_type_of_its_parameter(method: str, written: str, right: object) -> None:
    if written == "@":
        with pytest.raises(ConfigError, match="the file . cannot be read: Is a directory"):
            given(method, "@.")
        return
    found = given(method, written)
    assert found.kwargs == {"it": right}
    assert type(found.kwargs["it"]) is type(right)


def test_names_are_given_several_times_for_a_list_alone() -> None:
    assert given("names", "it=pen", "it=ink").kwargs == {"it": ["pen", "ink"]}
    for method in ("text", "items"):
        with pytest.raises(ConfigError, match="the argument 'it' is given 2 times"):
            given(method, "it=pen", "it=ink")
    with pytest.raises(ConfigError, match="the argument 'it' is given 2 times"):
        given("names", "it=pen", 'it:=["ink"]')


def test_what_has_no_name_goes_by_its_place() -> None:
    found = given("first", "1", "other=3")
    assert (found.args, found.kwargs) == ([1], {"other": 3})
    assert given("first", "it=1").args == [1]
    with pytest.raises(ConfigError, match="the argument 'it' is given twice"):
        given("first", "1", "it=1")
    with pytest.raises(ConfigError, match=r"'3' is one too many; it takes \(it: int, /, other: int = 2\)"):
        given("first", "1", "2", "3")


async def test_a_stream_is_a_list_of_json_or_lines(tmp_path: Any) -> None:
    (tmp_path / "numbers").write_text("1\n\n2\n")
    for written in ("it=[1, 2]", f"it=@{tmp_path / 'numbers'}"):
        found = given("stream", written)
        assert [one async for one in found.kwargs["it"]] == [1, 2]
        assert found.problems == []
    (tmp_path / "numbers").write_text("1\nx\n")
    found = given("stream", f"it=@{tmp_path / 'numbers'}")
    with pytest.raises(ConfigError, match="numbers:2: the line is not valid JSON"):
        [one async for one in found.kwargs["it"]]
    assert len(found.problems) == 1
    await asyncio.sleep(0)


def test_a_method_is_found_by_several_names() -> None:
    for name in ("CliShop.text", "cli-shop.text", "cli-mall:cli-shop:text"):
        found = target(name, [SPEC])
        assert (found.service, found.method.name, found.component) == (SPEC, "text", "cli-mall")
    assert wire_name("a.b:c-d:e_f") == ("a.b", "c-d", "e_f")
    assert wire_name("a:b") is None
    assert wire_name("http://a:b") is None


async def test_a_method_that_is_made_up_takes_what_is_written(tmp_path: Any) -> None:
    (tmp_path / "more.json").write_text('{"c": {"d": [1]}}')
    written = read(["pen", "5", "b=true", 'x:="5"', f"@{tmp_path / 'more.json'}"])
    found = made_up("mall", "shop", "order", written)
    assert found.component == "mall"
    made = arguments(found.method, written)
    assert made.args == ["pen", 5]
    assert made.kwargs == {"b": True, "x": "5", "c": {"d": [1]}}
    assert found.method.arguments(made.args, made.kwargs) == (["pen", 5], made.kwargs)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", "arguments are an object of JSON, and not list"),
        ("{", "it is not valid JSON"),
        ('{"it": 1, "it": 2}', "the key 'it' stands twice in one object"),
    ],
)
def test_an_object_that_is_none(tmp_path: Any, text: str, sentence: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        read([f"@{file}"])
    assert str(caught.value).startswith(f"{file}: ")
