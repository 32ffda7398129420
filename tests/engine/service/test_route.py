"""REST: how interfaces are declared, and calls that become requests and calls again."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import parse_qsl

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.service.declare import Service, rest, service, service_spec
from evbus.engine.service.method import EMPTY
from evbus.engine.service.rest import (
    Body,
    Header,
    PathParam,
    QueryParam,
    delete,
    get,
    patch,
    post,
    put,
    status_of,
)
from evbus.engine.service.route import RestRequest, Route, canonical
from evbus.errors import InvalidPayload, PayloadError, ServiceSignatureError


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    parts: list[Item] = field(default_factory=list)


class Model(pydantic.BaseModel):
    name: str


@service()
@rest("/api", errors={KeyError: 404})
class Shop(Service):
    """A shop."""

    @get("/items/{name}")
    async def item(self, name: str) -> Item: ...

    @get("items/{name}/{number}.json")
    async def part(self, name: str, number: int) -> Item: ...

    @get("/items/new")
    async def newest(self) -> Item: ...

    @get("/find")
    async def find(
        self,
        text: str,
        limit: int = 10,
        tags: list[str] | None = None,
        since: dt.date | None = None,
        colours: tuple[Colour, ...] = (),
        *,
        exact: bool = False,
    ) -> list[Item]: ...

    @post("/items")
    def add(self, item: Item, urgent: bool = False) -> Item: ...

    @put("/items/{name}")
    def replace(self, name: str, model: Model) -> Item: ...

    @patch("/items/{name}")
    def change(self, name: str, changes: dict[str, Any]) -> Item: ...

    @delete("/items/{name}")
    def remove(self, name: str, x_reason: Annotated[str, Header] = "") -> None: ...

    @post("/marked/{first}")
    def marked(
        self, first: PathParam(int), second: QueryParam(str), third: Body(int), fourth: Header(str)
    ) -> None: ...

    @get("/named")
    def named(
        self,
        page_size: Annotated[int, QueryParam("page-size")],
        token: Annotated[str | None, Header("X-Api-Token")],
    ) -> None: ...

    @get("/lists")
    def lists(self, required: list[int], maybe: str | None) -> None: ...

    async def plain(self) -> None: ...


ROUTES = service_spec(Shop).routes


def called(name: str, *args: Any, **kwargs: Any) -> RestRequest:
    route = ROUTES[name]
    return route.request(*route.method.arguments(args, kwargs))


def back(name: str, request: RestRequest) -> dict[str, Any]:
    """Return the arguments that a server gets of a request."""
    route = ROUTES[name]
    path, _, query = request.target.partition("?")
    path = canonical(path)
    assert route.pattern.fullmatch(path)
    _, values = route.method.read_arguments(
        [], route.read(path, parse_qsl(query, keep_blank_values=True), request.headers, request.body)
    )
    return values


def test_routes_have_the_prefix_and_their_names() -> None:
    assert {name: (route.verb, route.path) for name, route in ROUTES.items()} == {
        "item": ("GET", "/api/items/{name}"),
        "part": ("GET", "/api/items/{name}/{number}.json"),
        "newest": ("GET", "/api/items/new"),
        "find": ("GET", "/api/find"),
        "add": ("POST", "/api/items"),
        "replace": ("PUT", "/api/items/{name}"),
        "change": ("PATCH", "/api/items/{name}"),
        "remove": ("DELETE", "/api/items/{name}"),
        "marked": ("POST", "/api/marked/{first}"),
        "named": ("GET", "/api/named"),
        "lists": ("GET", "/api/lists"),
    }
    assert repr(ROUTES["item"]) == "<Route GET /api/items/{name} Shop.item>"


def places(name: str) -> dict[str, str]:
    return {one.spec.name: one.place for one in ROUTES[name].arguments}


def test_where_arguments_stand_without_markers() -> None:
    assert places("find") == dict.fromkeys(["text", "limit", "tags", "since", "colours", "exact"], "query")
    assert places("add") == {"item": "body", "urgent": "query"}
    assert places("replace") == {"name": "path", "model": "body"}
    assert places("change") == {"name": "path", "changes": "body"}


def test_where_arguments_stand_with_markers() -> None:
    assert places("marked") == {"first": "path", "second": "query", "third": "body", "fourth": "header"}
    assert places("remove") == {"name": "path", "x_reason": "header"}
    assert [one.name for one in ROUTES["named"].arguments] == ["page-size", "x-api-token"]


def test_a_call_as_a_request() -> None:
    assert called("item", "nut") == RestRequest("GET", "/api/items/nut", {}, EMPTY)
    assert called("add", Item("nut"), urgent=True) == RestRequest(
        "POST", "/api/items?urgent=true", {}, Item("nut")
    )
    assert called("remove", "nut", x_reason="old") == RestRequest(
        "DELETE", "/api/items/nut", {"x-reason": "old"}, EMPTY
    )
    assert called("marked", 1, "b", 3, "d") == RestRequest(
        "POST", "/api/marked/1?second=b", {"fourth": "d"}, 3
    )
    assert called("named", 5, None) == RestRequest("GET", "/api/named?page-size=5", {}, EMPTY)


def test_defaults_are_left_to_the_server() -> None:
    assert called("find", "nut").target == "/api/find?text=nut"
    assert called("find", "nut", exact=True).target == "/api/find?text=nut&exact=true"


@pytest.mark.parametrize("name", ["a b/c?d", "%2F", "ü#&=+", "a/../b", "...", "~", "\x00\n", "{name}"])
def test_values_in_a_path_are_percent_encoded(name: str) -> None:
    request = called("item", name)
    assert request.target.count("/") == 3
    assert request.target.isascii()
    assert back("item", request) == {"name": name}


def test_two_values_in_a_path() -> None:
    request = called("part", "a.b/c", -7)
    assert request.target == "/api/items/a.b%2Fc/-7.json"
    assert back("part", request) == {"name": "a.b/c", "number": -7}


@given(
    st.text(),
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.lists(st.text(), min_size=1),
    st.none() | st.dates(),
    st.lists(st.just(Colour.RED)),
    st.booleans(),
)
def test_values_in_a_query_come_back(
    text: str, limit: int, tags: Any, since: Any, colours: Any, exact: bool
) -> None:
    values = back("find", called("find", text, limit, tags, since, tuple(colours), exact=exact))
    default = {"tags": None, "since": None, "colours": ()}
    assert {**default, **values} == {
        "text": text,
        "limit": limit,
        "tags": tags,
        "since": since,
        "colours": tuple(colours),
        "exact": exact,
    }


def test_bodies_headers_and_markers_come_back() -> None:
    assert back("marked", called("marked", 1, "b", 3, "ü d")) == {
        "first": 1,
        "second": "b",
        "third": 3,
        "fourth": "ü d",
    }
    assert back("named", called("named", 5, "secret")) == {"page_size": 5, "token": "secret"}


def test_what_has_no_text_is_there_by_being_absent() -> None:
    assert called("lists", [], None).target == "/api/lists"
    assert back("lists", called("lists", [], None)) == {"required": [], "maybe": None}
    assert back("lists", called("lists", [1, 2], "")) == {"required": [1, 2], "maybe": ""}


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("item", [""], "'name' cannot stand in the path: a part of a path is not ''"),
        ("item", [".."], "'name' cannot stand in the path: a part of a path is not '..'"),
        (
            "find",
            ["x", None],
            "'limit' cannot stand in the query: None would be nothing at all, and that means 10",
        ),
        (
            "find",
            ["x", 1, []],
            "'tags' cannot stand in the query: [] would be nothing at all, and that means None",
        ),
        (
            "remove",
            ["x", "a\r\nb: c"],
            (
                "'x_reason' cannot stand in the header: a header has no blanks around it, and no line ends "
                "or other controls in it"
            ),
        ),
    ],
)
def test_values_that_cannot_stand_where_they_should(name: str, args: list[Any], said: str) -> None:
    with pytest.raises(PayloadError) as caught:
        called(name, *args)
    assert str(caught.value) == f"{ROUTES[name].method.title}: the argument {said}"


def read(name: str, query: str = "", headers: dict[str, str] | None = None, body: Any = EMPTY) -> Any:
    path = ROUTES[name].literal or "/api/marked/1"
    return ROUTES[name].read(path, parse_qsl(query, keep_blank_values=True), headers or {}, body)


@pytest.mark.parametrize(
    ("name", "query", "headers", "body", "said"),
    [
        ("find", "limit=1", {}, EMPTY, "Shop.find: the query parameter 'text' is missing"),
        (
            "find",
            "text=a&text=b",
            {},
            EMPTY,
            "Shop.find: the query parameter 'text': it came 2 times, and is one",
        ),
        ("add", "", {}, EMPTY, "Shop.add: the body is missing"),
        ("marked", "second=1", {}, 3, "Shop.marked: the header 'fourth' is missing"),
    ],
)
def test_what_is_missing_is_named(name: str, query: str, headers: Any, body: Any, said: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        read(name, query, headers, body)
    assert str(caught.value).startswith(said)


def test_what_is_no_argument_is_left_alone() -> None:
    assert read("find", "text=a&utm_source=b") == {"text": "a"}


def test_paths_are_compared_as_what_they_stand_for() -> None:
    assert canonical("/api/%69tems/a%2fb~%7E") == "/api/items/a%2Fb~~"
    with pytest.raises(InvalidPayload, match="the path is not percent-encoded UTF-8"):
        canonical("/a/%ff")


# -- what cannot be declared -----------------------------------------------------------------------


def refused(declare: Any) -> str:
    with pytest.raises(ServiceSignatureError) as caught:
        declare()
    return str(caught.value)


def one_method(decorator: Any, function: Any) -> Any:
    """Return what declares an interface of one method, called ``call``."""

    def declare() -> None:
        function.__name__ = "call"
        function.__qualname__ = "Bad.call"
        service()(type("Bad", (Service,), {"call": decorator(function)}))

    return declare


def nothing(self: Any) -> None: ...
def text(self: Any, name: str) -> None: ...
def thing(self: Any, item: Item) -> None: ...
def maybe(self: Any, name: str | None) -> None: ...
def either(self: Any, name: int | str) -> None: ...
def two(self: Any, item: Item, model: Model) -> None: ...
def two_marked(self: Any, one: Annotated[int, Body], other: Annotated[int, Body()]) -> None: ...
def marked_body(self: Any, one: Annotated[int, Body]) -> None: ...
def marked_path(self: Any, one: Annotated[int, PathParam]) -> None: ...
def marked_query(self: Any, name: Annotated[str, QueryParam]) -> None: ...
def twice(self: Any, one: Annotated[int, QueryParam, Header]) -> None: ...
def same(self: Any, one: int, other: Annotated[int, QueryParam("one")]) -> None: ...
def listed(self: Any, one: Annotated[list[int], Header]) -> None: ...
def host(self: Any, host: Annotated[str, Header]) -> None: ...


CANNOT = (
    "cannot stand in the {}: that has texts, numbers, dates and enumerations, a query lists of them, too, "
    "and all but a path may be None"
)


@pytest.mark.parametrize(
    ("decorator", "function", "said"),
    [
        (get("/{id}"), nothing, "the path '/{id}' names 'id', which is no parameter of it; it has none"),
        (get("/{x}"), text, "the path '/{x}' names 'x', which is no parameter of it; it has name"),
        (get("/{name}/{name}"), text, "the path '/{name}/{name}' names 'name' twice"),
        (
            get("/a b"),
            nothing,
            (
                "the path '/a b' is made of parts between slashes and of {name}, and has no other braces, no "
                "query, and no character that has to be written with a percent sign"
            ),
        ),
        (post("/"), two, "has one body, and 'item' and 'model' would be two; make one class of them"),
        (post("/"), two_marked, "has one body, and 'one' and 'other' would be two; make one class of them"),
        (get("/"), marked_body, "a GET has no body, and 'one' is marked as one; use @post"),
        (
            get("/"),
            thing,
            "the argument 'item': Item is an object, which only a body can be, and not a part of the query",
        ),
        (get("/{name}"), maybe, "the argument 'name': str | None " + CANNOT.format("path")),
        (get("/"), either, "the argument 'name': int | str " + CANNOT.format("query")),
        (
            get("/"),
            marked_path,
            "the argument 'one' is marked as part of the path, and '/' has no {one}",
        ),
        (
            get("/{name}"),
            marked_query,
            "the argument 'name' stands in the path '/{name}', and is marked as part of the query",
        ),
        (get("/"), twice, "the argument 'one' is marked twice"),
        (get("/"), same, "two arguments have the name 'one' in the request"),
        (get("/"), listed, "the argument 'one': list[int] " + CANNOT.format("header")),
        (get("/"), host, "the argument 'host': str cannot be the header 'host'; choose another name"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_what_cannot_be_called_like_this_is_named_when_it_is_declared(
    decorator: Any, function: Any, said: str
) -> None:
    text = refused(one_method(decorator, function)).removeprefix("Bad.call").lstrip(": ")
    assert text == said


def test_two_paths_that_are_alike() -> None:
    class Two(Service):
        @get("/{one}")
        def first(self, one: str) -> None: ...

        @get("/{other}")
        def second(self, other: str) -> None: ...

    assert refused(lambda: service()(Two)) == (
        "Two.second and first have the same path, GET '/{other}'; one of them needs another"
    )


def test_a_method_has_one_path() -> None:
    def call(self: Any) -> None: ...

    assert refused(lambda: post("/")(get("/")(call))).endswith("call has a path already; one method has one")


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: get(print), 'write @get("/path"), with the path, and not <built-in function print>'),  # type: ignore[arg-type]
        (lambda: rest(Shop), "write @rest() with its brackets on Shop"),  # type: ignore[arg-type]
        (lambda: rest(7), 'write @rest("/prefix"), with the prefix, and not 7'),  # type: ignore[arg-type]
        (
            lambda: rest("/", errors={KeyError: 200})(Shop),
            (
                "Shop: errors has exceptions and the statuses from 400 to 599 that stand for them, and not "
                "<class 'KeyError'>: 200"
            ),
        ),
        (
            lambda: rest("/", errors={"KeyError": 404})(Shop),  # type: ignore[dict-item]
            "Shop: errors has exceptions and the statuses",
        ),
    ],
)
def test_decorators_that_are_left_without_what_they_need(declare: Any, said: str) -> None:
    assert refused(declare).startswith(said)


def test_streams_have_no_path() -> None:
    from collections.abc import AsyncIterator

    def count(self: Any) -> AsyncIterator[int]: ...  # type: ignore[empty-body]

    count.__annotations__["return"] = AsyncIterator[int]
    assert refused(one_method(get("/"), count)) == (
        "Bad.call has a stream, which REST has no form for; leave out @get and call it over another channel"
    )


def test_a_prefix_may_stand_above_the_declaration_and_have_parameters() -> None:
    @rest("/tenants/{tenant}/")
    @service()
    class Tenants(Service):
        @get("/{name}")
        def get_(self, tenant: str, name: str) -> None: ...

        @get("")
        def all_(self, tenant: str) -> None: ...

    routes = service_spec(Tenants).routes
    assert [route.path for route in routes.values()] == ["/tenants/{tenant}/{name}", "/tenants/{tenant}"]
    assert routes["get_"].request(["a/b", "c"], {}).target == "/tenants/a%2Fb/c"


def test_a_prefix_with_a_parameter_that_a_method_lacks() -> None:
    @service()
    class Tenants(Service):
        @get("/")
        def all_(self) -> None: ...

    assert refused(lambda: rest("/{tenant}")(Tenants)) == (
        "Tenants.all_: the path '/{tenant}/' names 'tenant', which is no parameter of it; it has none"
    )


# -- errors ----------------------------------------------------------------------------------------


class _Problem(Exception):
    status_code = 418


class _Sub(KeyError):
    status_code = 410


def test_the_status_of_an_exception() -> None:
    errors = ROUTES["item"].errors
    assert status_of(KeyError("x"), errors) == 404
    assert status_of(_Sub("x"), errors) == 404  # the table says more than the class
    assert status_of(_Sub("x"), {}) == 410
    assert status_of(_Problem(), errors) == 418
    assert status_of(ValueError(), errors) is None


def test_a_route_is_what_a_declaration_says() -> None:
    assert isinstance(ROUTES["item"], Route)
    assert ROUTES["newest"].literal == "/api/items/new"
