"""Find the profile that is to be consumed from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.profiles import check_data, convert, providers
from evbus.errors import ConfigError, ProfileError, nearest
from evbus.types import Delivery, Subscription

__all__ = ["EventSource", "check", "find", "fixed", "matching"]


def _nothing_known(_wanted: Subscription) -> None:
    pass


class EventSource(NamedTuple):
    """The functions by which listeners get the deliveries of one profile.

    :ivar name: ``provider.name``.
    :ivar consume: returns a generator of deliveries for a subscription.
    :ivar attach: for plugins whose messages are in this process, else None: hands lists of deliveries for a
        subscription to a function from now on, and returns what ends that.
    :ivar announces: ``consume`` calls ``ready()`` of the subscription.
    :ivar patterns: the name of a subscription may be a pattern.
    :ivar check: raises ProfileError for a subscription that the profile cannot give, as far as that is known.
    :ivar expect: lets lanes wait for a consumer, and returns what ends that, once it is there, or never.
    :ivar fixed: where events go whatever their names, ``""`` when that differs.
    """

    name: str
    consume: Callable[[Subscription], AsyncGenerator[Delivery, None]]
    attach: Callable[[Subscription, Callable[[list[Delivery]], None]], Any] | None
    announces: bool
    patterns: bool = False
    check: Callable[[Subscription], None] = _nothing_known
    expect: Callable[[object], Callable[[], None]] | None = None
    fixed: str = ""


def find(
    contexts: Mapping[str, Any], wanted: str, accepts: Sequence[Plugin], source: str = "contexts"
) -> Endpoint:
    """Return the profile called ``wanted``: its name, or ``provider.name``.

    :param accepts: what the egress plugins accept.
    :raises ProfileError: there is none, there are several, or no plugin consumes from its provider.
    """
    known = {
        f"{provider}.{name}": (provider, name, path, info)
        for provider, name, path, info in providers(contexts, source=source)
    }
    found = [entry for full, entry in known.items() if wanted in (full, entry[1])]
    if not found:
        names = [name for _, name, _, _ in known.values()]
        raise ProfileError(
            f"there is no profile {wanted!r} to consume from{nearest(wanted, names)}", source=source
        )
    takers = [(accept, entry) for entry in found for accept in accepts if entry[0] in accept.providers]
    if not takers:
        able = ", ".join(sorted({provider for accept in accepts for provider in accept.providers}))
        raise ProfileError(
            f"nothing can be consumed from the provider {found[0][0]!r}; those that can: {able}",
            source=source,
            path=found[0][2],
        )
    if len(takers) > 1:
        choices = " or ".join(f"{entry[0]}.{entry[1]}" for _, entry in takers)
        raise ProfileError(f"several profiles are called {wanted!r}; say {choices}", source=source)
    accept, entry = takers[0]
    return _source(accept, entry, source)


def matching(
    contexts: Mapping[str, Any],
    wanted: str,
    accepts: Sequence[Plugin],
    matches: Callable[[str, str], bool],
    source: str = "contexts",
) -> list[Endpoint]:
    """Return every profile whose name is a pattern that ``wanted`` matches, if it can be consumed from.

    :param matches: ``find(name, pattern)`` of the matcher.
    :raises ProfileError: there is none.
    """
    known = list(providers(contexts, source=source))
    found = [
        _source(accept, entry, source)
        for entry in known
        for accept in accepts
        if entry[0] in accept.providers and matches(wanted, entry[1])
    ]
    if not found:
        able = ", ".join(sorted({provider for accept in accepts for provider in accept.providers}))
        there = [f"{entry[0]}.{entry[1]}" for entry in known if matches(wanted, entry[1])]
        hint = f"; {there[0]} only takes events" if there else nearest(wanted, [entry[1] for entry in known])
        if "did you mean" not in hint:
            hint += f"; within this process it is internal: {{{wanted}: {{}}}}"
        raise ProfileError(
            f"there is no profile that {wanted!r} matches and that can be consumed from; providers that can: "
            f"{able}{hint}",
            source=source,
        )
    return found


def fixed(source: Endpoint) -> str:
    """Return where the events of a profile go whatever their names, ``""`` when that differs."""
    named = getattr(source.settings, "TEMPLATES", ())
    templates = [source.data.get("routing_key"), *(getattr(source.settings, key) for key in named)]
    return next((one for one in templates if isinstance(one, str) and "{routing_key}" not in one), "")


def _source(accept: Plugin, entry: tuple[str, str, str, Any], source: str) -> Endpoint:
    provider, name, path, info = entry
    check_data(provider, name, info, [accept], source, path)
    data = {key: value for key, value in dict(info or {}).items() if key != "delivery"}
    settings = convert(data, accept.schema, source, path) if accept.schema else None
    return Endpoint(accept, provider, name, data, settings, path=path)


def check(
    source: Endpoint, profile: str, profiles: Sequence[Endpoint], find: Callable[[str, str], bool]
) -> None:
    """Refuse a bridge that leads nowhere, or back to where it begins.

    :param find: ``find(name, pattern)`` of the matcher.
    :raises ConfigError: says which profile to name instead.
    """
    targets = [one for one in profiles if find(profile, one.name)]
    if not targets:
        raise ConfigError(
            f"no profile matches {profile!r}, so what is consumed from {source.name!r} would go nowhere; say "
            "with --profile where it is to go"
        )
    own = [one for one in profiles if (one.provider, one.name) == (source.provider, source.name)]
    for target in targets:
        if target in own:
            raise ConfigError(
                f"what is consumed from {source.name!r} would go back to it, as {profile!r} matches it too; "
                "say with --profile where it is to go"
            )
        letter = target.delivery.dead_letter
        if own and letter is not None and find(letter, source.name):
            raise ConfigError(
                f"{target.path}.delivery.dead_letter: what is refused there would go back to "
                f"{source.name!r}, from which it is consumed; name another profile"
            )
