"""A plugin, and a profile that is configured for one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from dict_tools.data import SafeNamespaceDict

from evbus.engine.core.settings import DeliverySettings
from evbus.errors import PluginError
from evbus.types import Envelope

__all__ = ["Endpoint", "Plugin", "router"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Plugin(NamedTuple):
    """A plugin, loaded or not.

    :ivar providers: those whose profiles are for it (ingress and egress).
    :ivar schema: the type of its profiles; None: anything.
    :ivar functions: by name, as far as it has them: each is called with ``ctx`` first.
    :ivar flags: what it says of itself: ``SOLE`` (it shares its providers with nobody: a plugin that is
        named like the provider has it alone, or else this one), ``OVERLAP``, ``READY``, ``PATTERNS``.
    :ivar publish: the plain ``publish(hub, ctx, ...)``, for its signature.
    :ivar order: of the pipeline: its ``__order__``, and ``optional`` its ``__optional__``.
    :ivar state: ``loaded``, ``disabled``, ``broken`` or ``not in use``.
    """

    name: str
    providers: tuple[str, ...] = ()
    schema: type[msgspec.Struct] | None = None
    functions: Mapping[str, Callable[..., Any]] = _NOTHING
    flags: frozenset[str] = frozenset()
    publish: Callable[..., Any] | None = None
    subsystem: str = ""
    file: str = ""
    state: str = "loaded"
    reason: str = ""
    line: int = 0
    order: float = 0
    optional: bool = False

    @property
    def ref(self) -> str:
        """The name on the hub."""
        return f"{self.subsystem}.{self.name}"

    def error(self) -> PluginError:
        """Return the error that says why the plugin is not loaded."""
        return PluginError(self.reason, plugin=self.ref, file=self.file, line=self.line)


class Endpoint(NamedTuple):
    """A profile for one plugin, which publishes to it or consumes from it.

    :ivar data: as it was written, without ``delivery``.
    :ivar settings: the same, checked; None where the plugin has no schema.
    :ivar routing_key: the template of the routing keys that events get.
    :ivar path: where the profile stands, for errors to come.
    """

    plugin: Plugin
    provider: str
    name: str
    data: dict[str, Any]
    settings: msgspec.Struct | None = None
    delivery: DeliverySettings = DeliverySettings()
    routing_key: str | None = None
    path: str = ""

    def __repr__(self) -> str:
        # The data hold secrets.
        return f"<Endpoint {self.plugin.name}.{self.full_name}>"

    @property
    def full_name(self) -> str:
        """Its name with that of its provider."""
        return f"{self.provider}.{self.name}"

    def context(self) -> SafeNamespaceDict:
        """Return a new ``ctx`` for the functions of the plugin."""
        return SafeNamespaceDict(
            acct=SafeNamespaceDict(self.data),
            profile=self.settings,
            name=self.name,
            provider=self.provider,
            state=None,
        )

    def bound(self, name: str) -> Callable[..., Any] | None:
        """Return a function of the plugin with a new ``ctx``, None when it has no such function."""
        function = self.plugin.functions.get(name)
        return None if function is None else functools.partial(function, self.context())


def router(template: str | None) -> Callable[[Envelope], Envelope] | None:
    """Return a function that gives events the routing key of a template; None if they keep theirs."""
    if template is None or template == "{routing_key}":
        return None
    if "{" not in template and "}" not in template:
        # Nothing is changed in an event, and so none is copied that has the key.
        return lambda event: event if event.routing_key == template else event.replace(routing_key=template)
    return lambda event: event.replace(
        routing_key=template.format(routing_key=event.routing_key, profile=event.profile)
    )
