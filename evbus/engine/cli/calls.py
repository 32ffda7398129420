"""``evbus call``: which method is meant, and its arguments, as they are written on the command line."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from evbus.engine.cli.source import Lines
from evbus.engine.kit.paths import expanded
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.strictjson import load
from evbus.engine.service.declare import Service, ServiceSpec, service, service_spec
from evbus.engine.service.method import MethodSpec, ParameterSpec
from evbus.engine.service.texts import texts_of
from evbus.errors import ConfigError, InvalidPayload, PayloadError, nearest

__all__ = ["Arguments", "CallTarget", "Written", "arguments", "made_up", "read", "target", "wire_name"]

_NAMED = re.compile(r"([^\W\d]\w*)(:?=)(.*)", re.DOTALL)
_WIRE = re.compile(r"([\w.-]+):([\w.-]+):(\w+)")
#: Stands for standard input.
_INPUT = "-"


class CallTarget(NamedTuple):
    """The method that is called, and its interface."""

    service: ServiceSpec
    method: MethodSpec

    @property
    def component(self) -> str:
        """The name of the component that has the service."""
        return self.service.component


class Written(NamedTuple):
    """Arguments as they are written.

    :ivar unnamed: the texts of those that have a place.
    :ivar named: the texts of the others; those of ``name:=JSON`` are JSON whatever the type is.
    :ivar objects: what came by objects of JSON: values by names.
    """

    unnamed: list[str]
    named: dict[str, list[tuple[str, bool]]]
    objects: dict[str, Any]


class Arguments(NamedTuple):
    """The arguments of a call, each of its type.

    :ivar problems: what is wrong with the items of a stream, once they are read.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    problems: list[ConfigError]


def wire_name(written: str) -> tuple[str, str, str] | None:
    """Return component, service and method of ``component:service:method``; None if it is no such name."""
    found = _WIRE.fullmatch(written)
    return None if found is None else (found[1], found[2], found[3])


def target(written: str, known: Iterable[ServiceSpec]) -> CallTarget:
    """Return the method that ``Interface.method``, ``service.method`` or ``component:service:method`` means.

    :raises ConfigError: there is none; names the nearest.
    """
    by_name: dict[str, list[ServiceSpec]] = {}
    seen: dict[tuple[str, str], ServiceSpec] = {}
    for spec in known:
        # A file that is imported by two names has each interface twice.
        if seen.setdefault((_file(spec), spec.cls.__qualname__), spec) is spec:
            for name in {spec.cls.__name__, spec.name}:
                by_name.setdefault(name, []).append(spec)
    component, name, method = wire_name(written) or ("", *_divided(written))
    found = by_name.get(name, [])
    if not found:
        raise ConfigError(f"there is no interface {name!r}{nearest(name, by_name)}")
    if len(found) > 1:
        found = [one for one in found if component in one.components] or found
    if len(found) > 1:
        both = ", ".join(f"{one.components[0]}:{one.name}:{method} ({_file(one)})" for one in found)
        raise ConfigError(f"several interfaces are called {name!r}; write one of them: {both}")
    spec = found[0]
    if component:
        # Which one has it may stand in a module that was not named.
        spec.listed = (component,)
    if len(spec.components) > 1:
        each = ", ".join(f"{one}:{spec.name}:{method}" for one in spec.components)
        raise ConfigError(f"several components have {spec.cls.__qualname__}; write one of them: {each}")
    if method not in spec.methods:
        hint = nearest(method, spec.methods)
        raise ConfigError(f"{spec.cls.__qualname__} has no method {method!r}{hint}")
    return CallTarget(spec, spec.methods[method])


def _file(spec: ServiceSpec) -> str:
    return str(getattr(sys.modules.get(spec.cls.__module__), "__file__", ""))


def _divided(written: str) -> tuple[str, str]:
    name, _, method = written.rpartition(".")
    if not name or not method:
        raise ConfigError(
            f"{written!r} names no method; write Interface.method, or component:service:method, which is its "
            "name on the wire"
        )
    return name, method


def made_up(component: str, name: str, method: str, written: Written) -> CallTarget:
    """Return a method of which nothing is known but its name on the wire: it takes what is written.

    :raises ConfigError: no method has such a name.
    """
    if method.startswith("_"):
        raise ConfigError(f"{method!r} begins with an underscore, and no method that can be called does")
    kinds = inspect.Parameter
    names = dict.fromkeys([*written.named, *written.objects])
    parameters = [
        kinds("self", kinds.POSITIONAL_ONLY),
        *(kinds(f"_{number}", kinds.POSITIONAL_ONLY) for number in range(len(written.unnamed))),
        *(kinds(each, kinds.KEYWORD_ONLY) for each in names),
    ]

    async def function(self: Any) -> Any: ...

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spec = service_spec(service(name)(type(name, (Service,), {method: function})))
    spec.listed = (component,)
    return CallTarget(spec, spec.methods[method])


def read(written: Sequence[str]) -> Written:
    """Return the arguments that are written: ``name=text``, ``name:=JSON``, ``text``, ``-`` or ``@file``.

    :raises ConfigError: a file cannot be read, or holds no object of JSON; a name has several values.
    """
    found = Written([], {}, {})
    for each in written:
        named = _NAMED.fullmatch(each)
        if named is not None:
            found.named.setdefault(named[1], []).append((named[3], named[2] == ":="))
        elif each == _INPUT or each.startswith("@"):
            for name, value in _object(each).items():
                if name in found.objects:
                    raise ConfigError(f"the argument {one_line(repr(name), 100)} is given twice")
                found.objects[name] = value
        elif each in ("=", ":="):
            raise ConfigError(f"an argument is written without spaces: name{each}value")
        else:
            found.unnamed.append(each)
    for name in found.named:
        if name in found.objects:
            raise ConfigError(f"the argument {name!r} is given twice")
    return found


def _object(written: str) -> dict[str, Any]:
    """Return the object that standard input or a file holds."""
    if written == _INPUT:
        source, data = "standard input", sys.stdin.buffer.read() if sys.stdin is not None else b""
    else:
        source = written[1:]
        try:
            data = expanded(source, "the file").read_bytes()
        except OSError as exc:
            raise ConfigError(f"the file {source} cannot be read: {exc.strerror}") from None
    try:
        value = load(data, what="it")
    except PayloadError as exc:
        raise ConfigError(f"{source}: {exc}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: arguments are an object of JSON, and not {type(value).__name__}")
    return value


def arguments(method: MethodSpec, written: Written) -> Arguments:
    """Return the arguments of a method.

    :raises ConfigError: one is missing, is none that it takes, or does not fit its type.
    """
    found = Arguments([], {}, [])
    known = {one.name: one for one in method.parameters}
    given: dict[str, Any] = {}
    takes = f"; it takes {_shown(method)}"
    if len(written.unnamed) > len(method.positional):
        raise ConfigError(
            f"{method.title}: {written.unnamed[len(method.positional)]!r} is one too many{takes}"
        )
    texts = {one.name: [(text, False)] for one, text in zip(method.positional, written.unnamed, strict=False)}
    for name in (*written.named, *written.objects):
        if name not in known:
            raise ConfigError(
                f"{method.title} has no parameter {one_line(repr(name), 100)}{nearest(name, known)}"
            )
        if name in texts:
            raise ConfigError(f"{method.title}: the argument {name!r} is given twice{takes}")
    for name, several in {**texts, **written.named}.items():
        given[name] = _of_texts(method, known[name], several, found.problems)
    for name, value in written.objects.items():
        given[name] = _fitting(method, known[name], value, found.problems)
    for one in method.parameters:
        if one.required and one.name not in given:
            raise ConfigError(f"{method.title}: the argument {one.name!r} is missing{takes}")
        if one.name in given:
            if one.kind is inspect.Parameter.POSITIONAL_ONLY:
                found.args.append(given[one.name])
            else:
                found.kwargs[one.name] = given[one.name]
    return found


def _shown(method: MethodSpec) -> inspect.Signature:
    """Return the parameters of a method, with their types and not the texts that may stand for them."""
    kinds = {one.name: one.type for one in method.parameters}
    parameters = [
        one if one.annotation is one.empty else one.replace(annotation=kinds[one.name])
        for one in method.signature.parameters.values()
    ]
    return inspect.Signature(parameters)


def _of_texts(
    method: MethodSpec, one: ParameterSpec, several: Sequence[tuple[str, bool]], problems: list[ConfigError]
) -> Any:
    """Return the value that the texts of a parameter stand for."""
    kind = texts_of(one.type)
    if len(several) > 1 and (kind is None or not kind.several or any(forced for _, forced in several)):
        raise ConfigError(f"{method.title}: the argument {one.name!r} is given {len(several)} times")
    if len(several) > 1 and kind is not None:
        return _fitting(method, one, kind.read([text for text, _ in several]), problems)
    text, forced = several[0]
    if one.item is not None and not forced and (text == _INPUT or text.startswith("@")):
        return _lines(method, one, text, problems)
    if kind is not None and not kind.several and one.type is not Any and not forced:
        return _fitting(method, one, kind.read_one(text), problems, text)
    try:
        value = load(text.encode(), exactly=method.exact, what="it")
    except PayloadError as exc:
        if forced or (kind is None and one.type is not Any):
            raise ConfigError(
                f"{method.title}: the argument {one.name!r} is written as JSON, and "
                f"{one_line(repr(text), 100)} is none: {exc}"
            ) from None
        return _fitting(method, one, text if kind is None else kind.read([text]), problems, text)
    return _fitting(method, one, value, problems, text)


def _fitting(
    method: MethodSpec, one: ParameterSpec, value: Any, problems: list[ConfigError], text: str | None = None
) -> Any:
    """Return a plain value as one of the type of its parameter.

    :param text: as it is written.
    """
    if one.item is not None:
        if not isinstance(value, list):
            raise ConfigError(
                f"{method.title}: the argument {one.name!r} is a stream: a list of JSON, or - or @file for "
                "one item a line"
            )
        return _items(one, f"{method.title}: the argument {one.name!r}", value, problems)
    try:
        return one.read(value)
    except InvalidPayload as exc:
        was = "" if text is None else f", {one_line(repr(text), 100)}"
        raise ConfigError(f"{method.title}: the argument {one.name!r}{was}: {exc}") from None


async def _items(
    one: ParameterSpec, where: str, values: Sequence[Any], problems: list[ConfigError]
) -> AsyncIterator[Any]:
    for number, value in enumerate(values):
        yield _item(one, f"{where}: item {number}", value, problems)


def _item(one: ParameterSpec, where: str, value: Any, problems: list[ConfigError]) -> Any:
    try:
        return one.read(value)
    except InvalidPayload as exc:
        problems.append(ConfigError(f"{where}: {exc}"))
        raise problems[0] from None


def _lines(
    method: MethodSpec, one: ParameterSpec, text: str, problems: list[ConfigError]
) -> AsyncIterator[Any]:
    """Return an iterator of the values in the lines of a file, or of standard input, as they come."""
    lines = Lines(None if text == _INPUT else text[1:])

    async def each() -> AsyncIterator[Any]:
        async for first, several in lines.batches():
            for number, line in enumerate(several, first):
                if not line.strip():
                    continue
                where = f"{lines.source}:{number}"
                try:
                    value = load(line, exactly=method.exact, what="the line")
                except PayloadError as exc:
                    problems.append(ConfigError(f"{where}: {exc}"))
                    raise problems[0] from None
                yield _item(one, where, value, problems)

    return each()
