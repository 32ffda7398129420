"""OpenAPI: the document is one that its schema takes, and says what there is."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Annotated, Any

import jsonschema
import pydantic
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from evbus.engine.codec import json
from evbus.engine.describe.openapi import RestMethod, document
from evbus.engine.describe.openapi_page import page
from evbus.engine.service.declare import Service, rest, service, service_spec
from evbus.engine.service.rest import Body, Header, QueryParam, delete, get, patch, post, put
from evbus.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Part:
    """A part of an item, made of parts."""

    name: str
    colour: Colour = Colour.RED
    made: dt.date | None = None
    parts: list[Part] = field(default_factory=list)


class Order(pydantic.BaseModel):
    """What is ordered."""

    name: str
    amount: int = pydantic.Field(default=1, gt=0)
    within: list[Order] = []


class OutOfStock(Exception):
    """There is none left."""


@service(name="shop", description="All that is sold.")
@rest("/api", errors={KeyError: 404, OutOfStock: 409, PermissionError: 409, ValueError: 422})
class Shop(Service):
    @get("/parts/{name}", tags=["parts", "reading"])
    async def part(self, name: str) -> Part:
        """Return a part.

        It is <b>new</b>.

        :param name: what it is called
        :raises KeyError: there is no such part
        :returns: The part.
        """

    @get("/parts", summary="Search", description="By name.")
    def find(
        self,
        text: Annotated[str, QueryParam("q", description="a part of the name", example="nut")],
        limit: int = 10,
        colours: list[Colour] | None = None,
        since: dt.datetime | None = None,
        token: Annotated[str | None, Header("X-Token")] = None,
        shades: tuple[Colour, ...] = (Colour.BLUE,),
    ) -> list[Part]: ...

    @post("/orders")
    async def order(self, order: Order, urgent: bool = False) -> Order | None:
        """Order something.

        Args:
            order: what is wanted
            urgent: today
        """

    @put("/orders/{number}")
    async def replace(self, number: int, order: Order | None = None) -> dict[str, Order]: ...

    @patch("/orders/{number}")
    async def change(
        self, number: int, changes: Annotated[dict[str, Any], Body(example={"a": 1})]
    ) -> Any: ...

    @delete("/orders/{number}")
    async def remove(self, number: int) -> None: ...

    async def without_path(self) -> None: ...


@service(name="shop")
class Other(Service):
    @get("/other")
    async def part(self) -> None: ...


def described(*interfaces: type) -> list[RestMethod]:
    return [
        RestMethod(spec, route) for spec in map(service_spec, interfaces) for route in spec.routes.values()
    ]


@pytest.fixture
def made() -> dict[str, Any]:
    return document(described(Shop, Other), title="Shop", version="1.2")


def test_openapi_takes_the_document(made: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(made).validate()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: made.pop("info"),
        lambda made: made["paths"]["/api/parts"]["get"].update(operationId="shop.order"),
        lambda made: made["paths"]["/api/parts"]["get"]["parameters"][1]["schema"].update(default="ten"),
        lambda made: made["paths"]["/api/parts/{name}"]["get"].pop("parameters"),
    ],
)
def test_openapi_would_not_take_any_document(made: dict[str, Any], spoil: Any) -> None:
    spoil(made)
    assert list(OpenAPIV31SpecValidator(made).iter_errors())


def test_the_document_is_plain_and_the_same_every_time(made: dict[str, Any]) -> None:
    assert json.load(json.apply(made)) == made
    assert json.apply(document(described(Shop, Other), title="Shop", version="1.2")) == json.apply(made)


def test_every_path_is_there(made: dict[str, Any]) -> None:
    assert {path: list(verbs) for path, verbs in made["paths"].items()} == {
        "/api/parts/{name}": ["get"],
        "/api/parts": ["get"],
        "/api/orders": ["post"],
        "/api/orders/{number}": ["put", "patch", "delete"],
        "/other": ["get"],
    }


def test_ids_of_operations_are_unique(made: dict[str, Any]) -> None:
    ids = [one["operationId"] for verbs in made["paths"].values() for one in verbs.values()]
    assert ids == [
        *("shop.part", "shop.find", "shop.order", "shop.replace", "shop.change", "shop.remove"),
        "shop.part-2",
    ]


def test_what_docstrings_and_decorators_say(made: dict[str, Any]) -> None:
    part = made["paths"]["/api/parts/{name}"]["get"]
    assert (part["summary"], part["description"]) == ("Return a part.", "It is <b>new</b>.")
    assert part["tags"] == ["parts", "reading"]
    assert part["responses"]["200"]["description"] == "The part."
    assert part["responses"]["404"]["description"] == "KeyError: there is no such part"
    assert part["parameters"][0]["description"] == "what it is called"
    found = made["paths"]["/api/parts"]["get"]
    assert (found["summary"], found["description"], found["tags"]) == ("Search", "By name.", ["shop"])
    order = made["paths"]["/api/orders"]["post"]
    assert order["requestBody"]["description"] == "what is wanted"
    assert order["parameters"][0]["description"] == "today"
    assert made["tags"] == [
        {"name": "parts"},
        {"name": "reading"},
        {"name": "shop", "description": "All that is sold."},
    ]


def test_parameters(made: dict[str, Any]) -> None:
    parameters = {one["name"]: one for one in made["paths"]["/api/parts"]["get"]["parameters"]}
    assert parameters == {
        "q": {
            "name": "q",
            "in": "query",
            "required": True,
            "description": "a part of the name",
            "example": "nut",
            "schema": {"type": "string"},
        },
        "limit": {"name": "limit", "in": "query", "schema": {"type": "integer", "default": 10}},
        "colours": {
            "name": "colours",
            "in": "query",
            "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Colour"}},
        },
        "since": {"name": "since", "in": "query", "schema": {"type": "string"}},
        "x-token": {"name": "x-token", "in": "header", "schema": {"type": "string"}},
        "shades": {
            "name": "shades",
            "in": "query",
            "schema": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Colour"},
                "default": ["blue"],
            },
        },
    }


def test_bodies(made: dict[str, Any]) -> None:
    reference = {"$ref": "#/components/schemas/Order"}
    assert made["paths"]["/api/orders"]["post"]["requestBody"]["content"] == {
        "application/json": {"schema": reference}
    }
    orders = made["paths"]["/api/orders/{number}"]
    body = orders["put"]["requestBody"]
    assert body["required"] is False
    assert sorted(body["content"]["application/json"]["schema"]["anyOf"], key=str) == sorted(
        [reference, {"type": "null"}], key=str
    )
    assert orders["patch"]["requestBody"]["content"]["application/json"]["example"] == {"a": 1}
    assert "requestBody" not in orders["delete"]


def test_what_can_fail(made: dict[str, Any]) -> None:
    responses = made["paths"]["/api/orders"]["post"]["responses"]
    assert {status: one["description"] for status, one in responses.items()} == {
        "200": "The result.",
        "400": "The body is no JSON.",
        "404": "KeyError",
        "409": "OutOfStock\n\nPermissionError",
        "413": "The body is too large.",
        "415": "The body is of another content type.",
        "422": "An argument is missing or does not fit.\n\nValueError",
        "default": "The method failed, or the server did.",
    }
    error = {"$ref": "#/components/schemas/evbus.error"}
    assert responses["default"]["content"]["application/json"]["schema"] == error
    assert "415" not in made["paths"]["/api/parts"]["get"]["responses"]


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("Part", {"name": "nut", "parts": [{"name": "hole", "colour": "blue"}]}, True),
        ("Part", {"name": "nut", "parts": [{"colour": "blue"}]}, False),
        ("Order", {"name": "nut", "within": [{"name": "bolt", "amount": 2}]}, True),
        ("Order", {"name": "nut", "within": [{"name": "bolt", "amount": 0}]}, False),
        ("evbus.error", {"error": {"type": "KeyError", "reason": "'nut'"}}, True),
        ("evbus.error", {}, False),
    ],
)
def test_schemas_take_what_fits(made: dict[str, Any], name: str, value: Any, fits: bool) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": made["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is fits


@service()
class Third(Service):
    @delete("/api/parts/{part}")
    async def drop(self, part: str) -> None:
        """Drop a part.

        :param part: which
        """


def test_paths_that_differ_in_names_alone_are_one() -> None:
    made = document(described(Shop, Third), title="Shop", version="1")
    OpenAPIV31SpecValidator(copy.deepcopy(made)).validate()
    assert list(made["paths"]["/api/parts/{name}"]) == ["get", "delete"]
    (parameter,) = made["paths"]["/api/parts/{name}"]["delete"]["parameters"]
    assert (parameter["name"], parameter["description"]) == ("name", "which")


def test_no_method_has_a_path() -> None:
    made = document([], title="Nothing", version="1", description="None.", server="https://shop.example/base")
    OpenAPIV31SpecValidator(copy.deepcopy(made)).validate()
    assert made["paths"] == {}
    assert made["servers"] == [{"url": "https://shop.example/base"}]
    assert "<p>No method has a path.</p>" in page(made)


class Strange:
    """Something that pydantic knows nothing of."""


class Holder(pydantic.BaseModel, arbitrary_types_allowed=True):
    item: Strange


def test_a_type_without_a_schema_is_named() -> None:
    @service()
    class Bad(Service):
        @post("/")
        def bad(self, item: Holder) -> None: ...

    with pytest.raises(
        ConfigError, match="the type of the argument 'item' of Bad.bad has no JSON Schema: .*Strange"
    ):
        document(described(Bad), title="Bad", version="1")


# -- the page --------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Reads which tags and attributes a page has, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[tuple[str, str | None]] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= set(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_and_runs_nothing(made: dict[str, Any]) -> None:
    found = _Page(page(made))
    assert not {"script", "link", "img", "iframe", "object", "b"} & set(found.tags)
    assert {name for name, _ in found.attributes} <= {"charset", "class", "content", "href", "lang", "name"}
    assert ("href", "openapi.json") in found.attributes
    assert not re.search(r"url\(|@import", page(made))


def test_the_page_says_what_the_document_says(made: dict[str, Any]) -> None:
    text = " ".join(_Page(page(made)).text.split())
    for said in (
        "Shop 1.2",
        "GET /api/parts/{name} Return a part. It is <b>new</b>.",
        "path, required string what it is called",
        "limitqueryinteger = 10",
        "coloursquery[Colour]",
        "Body, required what is wanted",
        "404KeyError: there is no such part".replace("404", "404evbus.error"),
        "DELETE /api/orders/{number}",
    ):
        assert said.replace(" ", "") in text.replace(" ", ""), said
