"""Calls as requests of HTTP, and requests as calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from evbus.engine.codec.typed import travels
from evbus.engine.kit.redact import one_line
from evbus.engine.service.method import EMPTY, MethodSpec, ParameterSpec
from evbus.engine.service.rest import PIECE, ROUTE, Declared, check_names, marker_of
from evbus.engine.service.texts import Texts, texts_of
from evbus.errors import InvalidPayload, PayloadError, ServiceSignatureError

__all__ = ["Argument", "RestRequest", "Route", "canonical", "read_routes"]

_WITHOUT_BODY = frozenset({"GET"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers that say how a request is sent, and none of which is an argument.
_OF_HTTP = frozenset({"connection", "content-length", "content-type", "expect", "host", "transfer-encoding"})
#: What stands in a path as it is, beside letters and digits (RFC 3986, section 3.3).
_SAFE = "-._~!$&'()*+,;=:@"


class Argument(NamedTuple):
    """A parameter of a method, and where in a request it stands.

    :ivar place: ``path``, ``query``, ``header`` or ``body``.
    :ivar name: what it is called there; headers in small letters.
    :ivar texts: how its values are texts; None for a body.
    :ivar marker: what it was marked with, None without.
    """

    spec: ParameterSpec
    place: str
    name: str
    texts: Texts | None
    marker: Any

    @property
    def absent(self) -> Any:
        """What it means when the request does not have it; ``inspect.Parameter.empty``: that is an error."""
        if not self.spec.required:
            return self.spec.default
        if self.texts is None or self.place == "path":
            return EMPTY
        # None and an empty list have no other form.
        return None if self.texts.nullable else [] if self.texts.several else EMPTY

    def write(self, value: Any, title: str) -> list[str]:
        """Return its texts.

        :raises PayloadError: it has none.
        """
        assert self.texts is not None
        try:
            texts = self.texts.write(value)
            if not texts and not _same(value, self.absent):
                raise PayloadError(f"{value!r} would be nothing at all, and that means {_shown(self.absent)}")
            for text in texts:
                self._check(text)
        except PayloadError as exc:
            raise PayloadError(
                f"{title}: the argument {self.spec.name!r} cannot stand in the {self.place}: {exc}"
            ) from None
        return texts

    def _check(self, text: str) -> None:
        if self.place == "path" and text in ("", ".", ".."):
            raise PayloadError(f"a part of a path is not {text!r}")
        # The blanks around it would be lost, and others end the header.
        if self.place == "header" and (text.strip() != text or not text.isprintable()):
            raise PayloadError("a header has no blanks around it, and no line ends or other controls in it")


def _same(value: Any, absent: Any) -> bool:
    """Return whether a value that has no texts is what their absence means."""
    if value is None or absent is None or absent is EMPTY:
        return value is absent
    return len(absent) == 0


def _shown(absent: Any) -> str:
    return "that it is missing" if absent is EMPTY else one_line(repr(absent), 50)


class RestRequest(NamedTuple):
    """A call as a request.

    :ivar target: path and query, both percent-encoded.
    :ivar body: ``inspect.Parameter.empty`` when it has none.
    """

    verb: str
    target: str
    headers: dict[str, str]
    body: Any


class Route:
    """A method, and how it is called by HTTP.

    :ivar path: with the prefix.
    :ivar arguments: in the order of the method's parameters.
    :ivar errors: the status that stands for an exception, by its class.
    :ivar pattern: matches the path of a request as :func:`canonical` has it.
    :ivar literal: the path, if nothing of it is a parameter, else ``""``.
    :ivar has_headers: one of the arguments is a header.
    """

    def __init__(
        self, method: MethodSpec, declared: Declared, prefix: str, errors: Mapping[type[Exception], int]
    ) -> None:
        self.method = method
        self.verb = declared.verb
        self.path = _joined(prefix, declared.path)
        self.declared = declared
        self.errors = errors
        check_names(method.title, self.path, [one.name for one in method.parameters])
        self.arguments = _placed(method, self)
        by_name = {one.spec.name: one for one in self.arguments}
        parts = PIECE.split(self.path)
        self._literals = [canonical(part) for part in parts[::2]]
        self._in_path = [by_name[name] for name in parts[1::2]]
        self._elsewhere = [one for one in self.arguments if one.place in ("query", "header")]
        self.body = next((one for one in self.arguments if one.place == "body"), None)
        self.pattern = re.compile("([^/]+)".join(map(re.escape, self._literals)))
        self.literal = "" if self._in_path else self._literals[0]
        self.has_headers = any(one.place == "header" for one in self.arguments)
        self._positional = [one.name for one in method.parameters if one.kind is not Parameter.KEYWORD_ONLY]

    def __repr__(self) -> str:
        return f"<Route {self.verb} {self.path} {self.method.title}>"

    @property
    def shape(self) -> tuple[str, str]:
        """What two routes must not have in common."""
        return self.verb, "{}".join(self._literals)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts routes of which several fit: text before parameters, in every part of the path."""
        parts = PIECE.sub("{", self.path).split("/")
        return tuple((part == "{", "{" in part, -len(part)) for part in parts)

    def request(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RestRequest:
        """Return a call as a request.

        :param args: as :meth:`.MethodSpec.arguments` has them, and so ``kwargs``.
        :raises PayloadError: an argument cannot stand where it should.
        """
        values = dict(zip(self._positional, args, strict=False))
        values.update(kwargs)
        title = self.method.title
        target = self._literals[0]
        for one, literal in zip(self._in_path, self._literals[1:], strict=True):
            value = values.get(one.spec.name, one.spec.default)
            texts = one.write(value, title)
            text = texts[0]
            target += (text if text.isalnum() and text.isascii() else quote(text, safe="")) + literal
        query: list[str] = []
        headers: dict[str, str] = {}
        for one in self._elsewhere:
            if one.spec.name not in values:
                continue
            texts = one.write(values[one.spec.name], title)
            if one.place == "query":
                query += [f"{quote(one.name, safe='')}={quote(text, safe='')}" for text in texts]
            elif texts:
                headers[one.name] = texts[0]
        if query:
            target += "?" + "&".join(query)
        body = EMPTY if self.body is None else values.get(self.body.spec.name, EMPTY)
        return RestRequest(self.verb, target, headers, body)

    def read(
        self,
        path: str,
        query: Iterable[tuple[str, str]],
        headers: Mapping[str, str],
        body: Any,
    ) -> dict[str, Any]:
        """Return the arguments of a request by name, as plain values.

        :param path: as :func:`canonical` has it; it matches :attr:`pattern`.
        :param query: names and values, decoded; what is no argument is left alone.
        :param headers: by their names in small letters.
        :param body: what it is read as, ``inspect.Parameter.empty`` when there is none.
        :raises InvalidPayload: one is missing, or came several times.
        """
        values: dict[str, Any] = {}
        if self._in_path:
            match = self.pattern.fullmatch(path)
            assert match is not None
            for one, text in zip(self._in_path, match.groups(), strict=True):
                values[one.spec.name] = self._read(one, [_decoded(text)])
        if self._elsewhere:
            asked: dict[str, list[str]] = {}
            for name, text in query:
                asked.setdefault(name, []).append(text)
            for one in self._elsewhere:
                if one.place == "query":
                    texts = asked.get(one.name)
                else:
                    texts = [headers[one.name]] if one.name in headers else None
                self._take(values, one, texts)
        if self.body is not None:
            if body is not EMPTY:
                values[self.body.spec.name] = body
            elif self.body.absent is EMPTY:
                raise InvalidPayload(f"{self.method.title}: the body is missing")
        return values

    def _take(self, values: dict[str, Any], one: Argument, texts: list[str] | None) -> None:
        if texts is not None:
            values[one.spec.name] = self._read(one, texts)
        elif one.spec.required:
            if one.absent is EMPTY:
                raise InvalidPayload(f"{self.method.title}: {_described(one)} is missing")
            values[one.spec.name] = one.absent

    def _read(self, one: Argument, texts: list[str]) -> Any:
        assert one.texts is not None
        try:
            return one.texts.read(texts)
        except InvalidPayload as exc:
            raise InvalidPayload(f"{self.method.title}: {_described(one)}: {exc}") from None


def _described(one: Argument) -> str:
    return {"query": "the query parameter ", "header": "the header ", "path": "the path's "}[
        one.place
    ] + repr(one.name)


def canonical(path: str) -> str:
    """Return the path of a request with every character that needs it percent-encoded, and no other.

    :raises InvalidPayload: what it encodes is no UTF-8.
    """
    if "%" not in path:
        return quote(path, safe=_SAFE + "/")
    return "/".join(quote(_decoded(part), safe=_SAFE) for part in path.split("/"))


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise InvalidPayload("the path is not percent-encoded UTF-8") from None


def _joined(prefix: str, path: str) -> str:
    prefix = prefix.strip("/")
    head = f"/{prefix}" if prefix else ""
    return head + ("/" + path.lstrip("/") if path or not head else "")


def _placed(method: MethodSpec, route: Route) -> list[Argument]:
    """Return where each parameter stands.

    :raises ServiceSignatureError: one has no place.
    """
    title, verb = method.title, route.verb
    if method.streams:
        raise ServiceSignatureError(
            f"{title} has a stream, which REST has no form for; leave out @{verb.lower()} and call it over "
            "another channel"
        )
    in_path = set(PIECE.findall(route.path))
    found: list[Argument] = []
    for one in method.parameters:
        marker = marker_of(title, one)
        place = marker.place if marker is not None else ""
        texts = texts_of(one.type)
        if one.name in in_path:
            if place not in ("", "path"):
                raise ServiceSignatureError(
                    f"{title}: the argument {one.name!r} stands in the path {route.path!r}, and is marked as "
                    f"part of the {place}"
                )
            place = "path"
        elif place == "path":
            raise ServiceSignatureError(
                f"{title}: the argument {one.name!r} is marked as part of the path, and {route.path!r} has "
                f"no {{{one.name}}}"
            )
        elif not place:
            # Without a marker, what is an object is the body, and all others are the query.
            place = "body" if texts is None and verb not in _WITHOUT_BODY else "query"
        found.append(_argument(title, one, place, texts, marker))
    bodies = [repr(one.spec.name) for one in found if one.place == "body"]
    if len(bodies) > 1:
        raise ServiceSignatureError(
            f"{title} has one body, and {' and '.join(bodies)} would be two; make one class of them"
        )
    if bodies and verb in _WITHOUT_BODY:
        raise ServiceSignatureError(
            f"{title}: a {verb} has no body, and {bodies[0]} is marked as one; use @post"
        )
    names = [(one.place, one.name) for one in found]
    twice = next((name for place, name in names if names.count((place, name)) > 1), None)
    if twice is not None:
        raise ServiceSignatureError(f"{title}: two arguments have the name {twice!r} in the request")
    return found


def _argument(title: str, one: ParameterSpec, place: str, texts: Texts | None, marker: Any) -> Argument:
    if place == "body":
        return Argument(one, place, one.name, None, marker)
    kind = one.type.__qualname__ if type(one.type) is type else one.type
    what = f"{title}: the argument {one.name!r}: {kind}"
    if texts is None and travels(one.type):
        raise ServiceSignatureError(
            f"{what} is an object, which only a body can be, and not a part of the {place}"
        )
    if texts is None or (place != "query" and texts.several) or (place == "path" and texts.nullable):
        raise ServiceSignatureError(
            f"{what} cannot stand in the {place}: that has texts, numbers, dates and enumerations, a query "
            "lists of them, too, and all but a path may be None"
        )
    name = (marker.name if marker is not None else "") or one.name
    if place == "path":
        name = one.name
    if place == "header":
        name = (marker.name or one.name.replace("_", "-")).lower()
        if not _HEADER_NAME.fullmatch(name) or name in _OF_HTTP:
            raise ServiceSignatureError(f"{what} cannot be the header {name!r}; choose another name")
    return Argument(one, place, name, texts, marker)


def read_routes(
    methods: Mapping[str, MethodSpec], prefix: str, errors: Mapping[type[Exception], int]
) -> dict[str, Route]:
    """Return the routes of the methods that have one, by the method's name.

    :raises ServiceSignatureError: one cannot be, or two are alike.
    """
    found: dict[str, Route] = {}
    shapes: dict[tuple[str, str], str] = {}
    for name, method in methods.items():
        declared = getattr(method.function, ROUTE, None)
        if declared is None:
            continue
        route = found[name] = Route(method, declared, prefix, errors)
        other = shapes.setdefault(route.shape, name)
        if other != name:
            raise ServiceSignatureError(
                f"{method.title} and {other} have the same path, {route.verb} {route.path!r}; one of them "
                "needs another"
            )
    return found
