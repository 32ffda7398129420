"""REST: what interfaces say of the paths of their methods, and where arguments stand in requests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from evbus.engine.service.method import ParameterSpec
from evbus.errors import ServiceSignatureError

__all__ = [
    "ROUTE",
    "Body",
    "Declared",
    "Header",
    "PathParam",
    "QueryParam",
    "check_errors",
    "check_names",
    "delete",
    "get",
    "marker_of",
    "patch",
    "post",
    "put",
    "status_of",
]

#: The attribute of a function that keeps what a decorator says of it.
ROUTE = "__evbus_route__"
#: A parameter in a path.
PIECE = re.compile(r"\{([^{}]*)\}")

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Marker:
    """Where a parameter stands in a request; of a type it makes ``Annotated`` with it, as in ``Body(Data)``.

    :param of: a type; or its name in the request, ``""`` for the parameter's own.
    :param description: for OpenAPI; default: what the method's docstring says.
    """

    place = ""
    __slots__ = ("description", "example", "name")

    name: str
    description: str
    example: Any

    def __new__(cls, of: Any = "", *, description: str = "", example: Any = None) -> Any:
        """Return the marker, or a type with it."""
        made = object.__new__(cls)
        made.name = of if isinstance(of, str) else ""
        made.description = description
        made.example = example
        return made if isinstance(of, str) else Annotated[of, made]


class Body(_Marker):
    """The body: ``Annotated[Data, Body]``, or ``Body(Data)``."""

    place = "body"
    __slots__ = ()


class QueryParam(_Marker):
    """A part of the query: ``Annotated[int, QueryParam]``, or ``QueryParam(int)``."""

    place = "query"
    __slots__ = ()


class PathParam(_Marker):
    """A part of the path, its ``{name}``: ``Annotated[str, PathParam]``, or ``PathParam(str)``."""

    place = "path"
    __slots__ = ()


class Header(_Marker):
    """A header: ``Annotated[str, Header]``, or ``Header(str)``; of ``x_token`` the name is ``x-token``."""

    place = "header"
    __slots__ = ()


class Declared(NamedTuple):
    """What a decorator says of a method."""

    verb: str
    path: str
    summary: str
    description: str
    tags: tuple[str, ...]


def get(
    path: str, *, summary: str = "", description: str = "", tags: Sequence[str] = ()
) -> Callable[[_Function], _Function]:
    """Say that a method of an interface is called by GET.

    :param path: below the prefix of ``@rest``, with ``{name}`` for the parameters that stand in it.
    :param summary: of OpenAPI, and so ``description``; default: from the docstring.
    :param tags: of OpenAPI; default: the name of the interface.
    :raises ServiceSignatureError: the path names what is no parameter.
    """
    return _verb("GET", path, summary, description, tags)


def post(
    path: str, *, summary: str = "", description: str = "", tags: Sequence[str] = ()
) -> Callable[[_Function], _Function]:
    """Say that a method of an interface is called by POST; see :func:`get`."""
    return _verb("POST", path, summary, description, tags)


def put(
    path: str, *, summary: str = "", description: str = "", tags: Sequence[str] = ()
) -> Callable[[_Function], _Function]:
    """Say that a method of an interface is called by PUT; see :func:`get`."""
    return _verb("PUT", path, summary, description, tags)


def patch(
    path: str, *, summary: str = "", description: str = "", tags: Sequence[str] = ()
) -> Callable[[_Function], _Function]:
    """Say that a method of an interface is called by PATCH; see :func:`get`."""
    return _verb("PATCH", path, summary, description, tags)


def delete(
    path: str, *, summary: str = "", description: str = "", tags: Sequence[str] = ()
) -> Callable[[_Function], _Function]:
    """Say that a method of an interface is called by DELETE; see :func:`get`."""
    return _verb("DELETE", path, summary, description, tags)


def _verb(
    verb: str, path: Any, summary: str, description: str, tags: Sequence[str]
) -> Callable[[_Function], _Function]:
    decorator = f"@{verb.lower()}"
    if not isinstance(path, str):
        raise ServiceSignatureError(f'write {decorator}("/path"), with the path, and not {path!r}')

    def declare(function: _Function) -> _Function:
        title = getattr(function, "__qualname__", repr(function))
        if isinstance(function, type) or not callable(function):
            raise ServiceSignatureError(f"{decorator} stands on a method, and {title} is none")
        if hasattr(function, ROUTE):
            raise ServiceSignatureError(f"{title} has a path already; one method has one")
        check_names(title, path, list(inspect.signature(function).parameters)[1:])
        several = (tags,) if isinstance(tags, str) else tuple(tags)
        setattr(function, ROUTE, Declared(verb, path, summary, description, several))
        return function

    return declare


def check_names(title: str, path: str, known: list[str]) -> None:
    """Refuse a path that cannot be right, whatever the types of the parameters."""
    names = PIECE.findall(path)
    literal = PIECE.sub("", path)
    if set(literal) & set("{}?#\\") or not literal.isascii() or not literal.isprintable() or " " in literal:
        raise ServiceSignatureError(
            f"{title}: the path {path!r} is made of parts between slashes and of {{name}}, and has no other "
            "braces, no query, and no character that has to be written with a percent sign"
        )
    for name in names:
        if name not in known:
            raise ServiceSignatureError(
                f"{title}: the path {path!r} names {name!r}, which is no parameter of it; it has "
                f"{', '.join(known) or 'none'}"
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ServiceSignatureError(f"{title}: the path {path!r} names {twice!r} twice")


def marker_of(title: str, one: ParameterSpec) -> Any:
    """Return the marker of a parameter, None without."""
    found = [each() if isinstance(each, type) else each for each in one.metadata if _marks(each)]
    if len(found) > 1:
        raise ServiceSignatureError(f"{title}: the argument {one.name!r} is marked twice")
    return found[0] if found else None


def _marks(metadata: Any) -> bool:
    return isinstance(metadata, _Marker) or (isinstance(metadata, type) and issubclass(metadata, _Marker))


def check_errors(where: str, errors: Mapping[Any, Any]) -> dict[type[Exception], int]:
    """Return a table of exceptions and the statuses that stand for them.

    :raises ServiceSignatureError: it is none.
    """
    for kind, status in dict(errors).items():
        fits = isinstance(kind, type) and issubclass(kind, Exception) and type(status) is int
        if not fits or not 400 <= status <= 599:
            raise ServiceSignatureError(
                f"{where}: errors has exceptions and the statuses from 400 to 599 that stand for them, and "
                f"not {kind!r}: {status!r}"
            )
    return dict(errors)


def status_of(problem: BaseException, errors: Mapping[type[Exception], int]) -> int | None:
    """Return the status that stands for an exception of a method, None when nothing says it.

    That is the table's, of the nearest class that it has, or ``status_code`` of the exception itself, as
    HTTPException of Starlette and FastAPI have it.
    """
    for kind in type(problem).__mro__:
        if kind in errors:
            return errors[kind]
    status = getattr(problem, "status_code", None)
    return status if type(status) is int and 400 <= status <= 599 else None
