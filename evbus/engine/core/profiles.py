"""Read profiles: from a file, from either shape of contexts, checked down to the last key."""

from __future__ import annotations

import string
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.settings import DeliverySettings, Retry, explain, plain
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.units import UnitError, with_units
from evbus.errors import ProfileError, absent, nearest

__all__ = ["changed", "load_yaml", "providers", "read_profiles", "refusal"]

MATCH_PLUGIN = "match_plugin"
#: Nodes that a profiles file may have once its aliases are written out.
MAX_NODES = 100_000


class _Loader(yaml.SafeLoader):
    """Safe YAML whose every error has a place and shows no value."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except ValueError:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this value cannot be read as {kind}; quote it if it is text", node.start_mark
            ) from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a plain YAML file of profiles.

    :raises ProfileError: it cannot be read, is no safe YAML, or is no mapping; with file and line.
    """
    source = str(path)
    try:
        text = path.read_text("utf-8")
    except OSError as exc:
        reason = f"the file cannot be read: {exc.strerror}"
        if isinstance(exc, FileNotFoundError) and not path.is_absolute():
            reason += f" in the current folder, {Path.cwd()}"
        raise ProfileError(reason, source=source) from None
    except UnicodeDecodeError:
        raise ProfileError("the file is not text in UTF-8", source=source) from None
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _check_nodes(root)
        data = _Loader(text).get_single_data()
    except yaml.YAMLError as exc:
        raise ProfileError(_yaml_reason(exc), source=source) from None
    except RecursionError:
        raise ProfileError("not valid YAML: it nests too deep", source=source) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ProfileError(
            "the file holds no mapping of providers to profiles; if acct encrypted it, give the acct_key",
            source=source,
        )
    return data


def _check_nodes(root: yaml.Node) -> None:
    """Refuse keys that stand twice, aliases that hold themselves, and bombs made of aliases.

    On the nodes, before anything is made of them: each is looked at once, however often it is meant.
    """
    sizes: dict[int, int] = {}
    open_: set[int] = set()
    stack: list[tuple[yaml.Node, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in _children(node))
            open_.discard(id(node))
            if sizes[id(node)] > MAX_NODES:
                raise _refuse(f"the aliases stand for more than {MAX_NODES} values", node)
        elif id(node) in open_:
            raise _refuse("an alias stands for something that holds the alias itself", node)
        elif id(node) not in sizes:
            _check_twice(node)
            open_.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in _children(node))


def _check_twice(node: yaml.Node) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                raise _refuse(f"the key {key.value!r} stands twice", key)
            seen.add((key.tag, key.value))


def _refuse(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    return []


def _yaml_reason(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = one_line(str(getattr(exc, "problem", None) or exc))
    if mark is None:
        return f"not valid YAML: {problem}"
    # Patterns of names often begin with a star, which is an alias to YAML.
    star = getattr(exc, "context", None) == "while scanning an alias" or "undefined alias" in problem
    hint = '; what begins with * is quoted: "*"' if star else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {problem}{hint}"


def providers(data: Mapping[str, Any], *, source: str) -> Iterator[tuple[str, str, str, Any]]:
    """Yield ``(provider, profile, path, data)`` for both shapes of contexts.

    The shapes are ``{provider: {name: data}}`` and ``{provider: [{name: data}, ...]}``.
    """
    for provider, profiles in data.items():
        if provider == MATCH_PLUGIN:
            continue
        if not isinstance(provider, str):
            raise ProfileError(f"a provider is a string, not {provider!r}; quote it", source=source)
        listed = isinstance(profiles, (list, tuple))
        for index, part in enumerate(profiles if listed else [profiles]):
            base = f"{provider}[{index}]" if listed else provider
            if part is None:
                continue
            if not isinstance(part, Mapping):
                hint = nearest(provider, [MATCH_PLUGIN]) if provider.startswith("match") else ""
                raise ProfileError(
                    f"profiles are a mapping of names to data, not {type(part).__name__}{hint}",
                    source=source,
                    path=base,
                )
            for name, info in part.items():
                if name is None or isinstance(name, bool):
                    # YAML reads on, off, yes, no and null as something else than these words.
                    raise ProfileError(
                        f"a profile's name is a string, not {name!r}; quote it", source=source, path=base
                    )
                yield provider, str(name), f"{base}.{name}", info


def changed(contexts: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the same profiles, in the same shape, with what ``change`` makes of the data of each."""

    def part(profiles: Any) -> Any:
        if isinstance(profiles, (list, tuple)):
            return [part(one) for one in profiles]
        if not isinstance(profiles, Mapping):
            return profiles
        return {name: change(data) for name, data in profiles.items()}

    return {provider: part(profiles) for provider, profiles in contexts.items()}


def read_profiles(
    contexts: Mapping[str, Any],
    accepts: Sequence[Plugin],
    *,
    source: str,
    find: Callable[[str, str], bool],
    broken: Mapping[str, str],
    others: Collection[str] = (),
) -> list[Endpoint]:
    """Return every profile, once for each plugin that accepts its provider.

    :param find: the matcher; it is tried on each name, so that a bad pattern is found now.
    :param others: providers whose profiles are for plugins that only receive.
    :param broken: what is wrong with the ingress plugins that could not be loaded, by name.
    :raises ProfileError: names the source, the path of the key, and the nearest valid name.
    """
    known = {provider for accept in accepts for provider in accept.providers}
    found: list[Endpoint] = []
    for provider, name, path, info in providers(contexts, source=source):
        takers = _takers(provider, accepts)
        if not takers and provider in others:
            continue
        if not takers:
            reason = refusal(provider, known, broken)
            if name in known:
                reason += f"; the provider stands first: {name}: {{{provider}: ...}}"
            raise ProfileError(reason, source=source, path=provider)
        check_data(provider, name, info, takers, source, path)
        try:
            find("", name)
        except Exception as exc:
            raise ProfileError(f"the name is no valid pattern: {exc}", source=source, path=path) from None
        data = dict(info or {})
        delivery = _delivery(data.pop("delivery", None), source, f"{path}.delivery")
        template = _template(data.get("routing_key"), source, f"{path}.routing_key")
        for accept in takers:
            settings = convert(data, accept.schema, source, path) if accept.schema else None
            found.append(Endpoint(accept, provider, name, data, settings, delivery, template, path))
    return found


def check_data(provider: str, name: str, info: Any, takers: Iterable[Plugin], source: str, path: str) -> None:
    """Refuse a profile that is no mapping.

    :raises ProfileError: says so, and where it seems that its name was left out.
    """
    if info is None or isinstance(info, Mapping):
        return
    schemas = [taker.schema for taker in takers if taker.schema is not None]
    keys = {field.encode_name for schema in schemas for field in msgspec.structs.fields(schema)}
    unnamed = f"; a name stands above it: {provider}: {{NAME: {{{name}: ...}}}}" if name in keys else ""
    raise ProfileError(
        f"a profile's data are a mapping, not {type(info).__name__}{unnamed}", source=source, path=path
    )


def _takers(provider: str, accepts: Sequence[Plugin]) -> list[Plugin]:
    """Return the plugins that get a provider's profiles: all that accept it, unless one is a sole one.

    Two ways to the same broker, such as our amqp and the published evbus-pika, would send everything twice.
    """
    found = [accept for accept in accepts if provider in accept.providers]
    if not any("SOLE" in accept.flags for accept in found):
        return found
    named = [accept for accept in found if accept.name == provider]
    return named or [accept for accept in found if "SOLE" in accept.flags]


def refusal(provider: str, known: Iterable[str], broken: Mapping[str, str]) -> str:
    """Explain why no plugin accepts ``provider``: its plugin is broken, or another name may be meant."""
    names = {*known, MATCH_PLUGIN} if provider.startswith("match") else known
    hint = f"; {broken[provider]}" if provider in broken else absent(provider, names)
    if provider in ("evbus", "profiles"):
        hint = "; a file of profiles begins with these; one with the section evbus is given as --config"
    return f"no ingress plugin accepts the provider {provider!r}{hint}"


def _delivery(data: Any, source: str, path: str) -> DeliverySettings:
    delivery = convert({} if data is None else data, DeliverySettings, source, path)
    for key, used in (("durable", delivery.durable), ("on_full", delivery.on_full == "spill")):
        if used:
            raise ProfileError(
                "this version of evbus keeps events in memory only; durable lanes and spilling to disk are "
                "to come",
                source=source,
                path=f"{path}.{key}",
            )
    return delivery


def _template(value: Any, source: str, path: str) -> str | None:
    if not isinstance(value, str):
        if value is None:
            return None
        raise ProfileError(f"a routing key is a string, not {type(value).__name__}", source=source, path=path)
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError as exc:
        raise ProfileError(f"not a valid template: {exc}", source=source, path=path) from None
    for _, field, spec, conversion in parts:
        if field is not None and (field not in ("routing_key", "profile") or spec or conversion):
            written = f"{field}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}"
            raise ProfileError(
                f"the template holds {{{written}}}; it may hold {{routing_key}} and {{profile}}",
                source=source,
                path=path,
            )
    return value


_Settings = typing.TypeVar("_Settings", bound=msgspec.Struct)


def convert(data: Mapping[str, Any], schema: type[_Settings], source: str, path: str) -> _Settings:
    """Check ``data`` against a Struct type; unknown keys are refused with the nearest one.

    :raises ProfileError: with the path of the key.
    """
    if not isinstance(data, Mapping):
        raise ProfileError(f"this is a mapping, not {type(data).__name__}", source=source, path=path)
    _check_keys(data, schema, source, path)
    try:
        return msgspec.convert(with_units(plain(data), schema), schema, strict=False)
    except UnitError as exc:
        raise ProfileError(exc.reason, source=source, path=path + exc.path) from None
    except msgspec.ValidationError as exc:
        reason, key = explain(exc, schema)
        raise ProfileError(reason, source=source, path=path + key) from None


#: Where the keys stand that every profile may have.
_BELOW = {
    field.encode_name: place
    for place, schema in (("delivery.retry", Retry), ("delivery", DeliverySettings))
    for field in msgspec.structs.fields(schema)
}


def _check_keys(data: Mapping[str, Any], schema: Any, source: str, path: str) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
    for key, value in data.items():
        if key not in fields:
            hint = f"; it stands below {_BELOW[key]!r}" if key in _BELOW else nearest(key, fields)
            raise ProfileError(f"there is no such key{hint}", source=source, path=f"{path}.{key}")
        _check_inside(value, fields[key].type, source, f"{path}.{key}")


def _check_inside(value: Any, kind: Any, source: str, path: str) -> None:
    """Check the keys of Structs in a field: itself one, in a union, or as items of a list or mapping."""
    arguments = typing.get_args(kind)
    if isinstance(value, Mapping):
        structs = [
            part for part in (kind, *arguments) if isinstance(part, type) and issubclass(part, msgspec.Struct)
        ]
        if len(structs) == 1 and typing.get_origin(kind) is not dict:
            _check_keys(value, structs[0], source, path)
        elif typing.get_origin(kind) is dict:
            for key, inner in value.items():
                _check_inside(inner, arguments[1], source, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for part in (kind, *arguments):
            if typing.get_origin(part) in (list, tuple):
                for index, inner in enumerate(value):
                    _check_inside(inner, typing.get_args(part)[0], source, f"{path}[{index}]")
