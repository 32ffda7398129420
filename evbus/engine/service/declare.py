"""Interfaces, components and implementations as they are declared."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import FrameType, ModuleType
from typing import Any, NamedTuple, Never, TypeVar

from evbus.engine.service.access import ACCESS, OPEN, Access
from evbus.engine.service.health import Health, HealthCheckManager
from evbus.engine.service.method import OPTIONS, CallOptions, MethodSpec, read_method, seconds
from evbus.engine.service.rest import check_errors
from evbus.engine.service.route import Route, read_routes
from evbus.errors import ServiceError, ServiceSignatureError, nearest

__all__ = [
    "AbstractComponent",
    "ChannelAddress",
    "Component",
    "ComponentSpec",
    "ComponentStatus",
    "Service",
    "ServiceSpec",
    "authorize",
    "component",
    "implementation",
    "interfaces_in",
    "interfaces_of",
    "is_implementation",
    "is_interface",
    "kebab",
    "method",
    "rest",
    "service",
    "service_spec",
]

_SERVICE, _COMPONENT, _IMPLEMENTS = "__evbus_service__", "__evbus_component__", "__evbus_implements__"
_REST = "__evbus_rest__"
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_Class = TypeVar("_Class", bound=type)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Declared = TypeVar("_Declared", bound=Callable[..., Any])


class ComponentStatus(Enum):
    """The state of a component."""

    VIRGIN = "virgin"
    RUNNING = "running"
    STOPPED = "stopped"


class ChannelAddress(NamedTuple):
    """Where a component can be called: the name of a channel, and an address in the channel's form."""

    channel: str
    uri: str


class Service:
    """The base of interfaces: classes whose methods are called here or elsewhere."""


class Component(Service, ABC):
    """The base of components: bundles of services that are started together and have the same addresses.

    :ivar checks: the health checks of the process, once it is started.
    """

    checks: HealthCheckManager | None = None

    @abstractmethod
    def startup(self) -> Any:
        """Begin, before anybody calls one of the services; may be asynchronous."""

    @abstractmethod
    def shutdown(self) -> Any:
        """End, once no calls are under way; may be asynchronous."""

    @abstractmethod
    def get_addresses(self, port: int) -> list[ChannelAddress] | None:
        """Return where it can be called, None for all channels that the server has.

        :param port: the port of the HTTP server, 0 without one.
        """

    @abstractmethod
    def get_status(self) -> ComponentStatus:
        """Return its state."""

    def get_health(self) -> Any:
        """Return its :class:`.Health`, what all checks of the process say; may be asynchronous."""
        return Health() if self.checks is None else self.checks.check()


class AbstractComponent(Component):
    """A component with the usual answers; what differs is overridden."""

    status = ComponentStatus.VIRGIN

    def startup(self) -> Any:
        """Do nothing."""

    def shutdown(self) -> Any:
        """Do nothing."""

    def get_addresses(self, port: int) -> list[ChannelAddress] | None:
        """Return None: all channels that the server has."""
        return None

    def get_status(self) -> ComponentStatus:
        """Return the state that the server has noted."""
        return self.status


class ServiceSpec:
    """An interface.

    :ivar cls: its class.
    :ivar name: what it is called on the wire.
    :ivar options: what its methods leave open.
    """

    def __init__(
        self, cls: type, name: str, description: str, options: CallOptions, names: Mapping[str, Any]
    ) -> None:
        self.cls = cls
        self.name = name
        self.description = description
        self.options = options
        #: The class of its proxies, once there is one.
        self.proxy: type | None = None
        #: The names of the components that list it.
        self.listed: tuple[str, ...] = ()
        self._names = names
        self._methods: dict[str, MethodSpec] | None = None

    def __repr__(self) -> str:
        return f"<ServiceSpec {self.name} {self.cls.__module__}.{self.cls.__qualname__}>"

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the components that have it: those that list it, or one of its own name."""
        return self.listed or (self.name,)

    @property
    def component(self) -> str:
        """The name of the component that has it.

        :raises ServiceError: there are several.
        """
        if len(self.listed) > 1:
            name, all_names = self.cls.__qualname__, ", ".join(self.listed)
            raise ServiceError(
                f"{name} stands in the components {all_names}; say which one is called, as in "
                f'get({name}, component="{self.listed[0]}")'
            )
        return self.components[0]

    @property
    def methods(self) -> dict[str, MethodSpec]:
        """The public methods by name, in the order in which they are declared.

        :raises ServiceSignatureError: one of them cannot travel.
        """
        if self._methods is None:
            try:
                self._methods = self._read()
            except NameError as exc:
                known = [*vars(sys.modules.get(self.cls.__module__, builtins)), *vars(builtins), *self._names]
                hint = nearest(exc.name, known) or "; import it, outside of `if TYPE_CHECKING:`"
                raise ServiceSignatureError(
                    f"{self.cls.__qualname__}: the name {exc.name} in an annotation means nothing in "
                    f"{self.cls.__module__} when the program runs{hint}"
                ) from None
        return self._methods

    @property
    def routes(self) -> dict[str, Route]:
        """The routes of REST by the name of the method, for the methods that have one.

        :raises ServiceSignatureError: one cannot be; says why.
        """
        return {name: method.route for name, method in self.methods.items() if method.route is not None}

    def check(self) -> None:
        """Read the methods, as far as the names in their annotations are there already."""
        # A class further down in the module is looked at again when it is used.
        with contextlib.suppress(NameError):
            self._methods = self._read()

    def _read(self) -> dict[str, MethodSpec]:
        prefix, errors = getattr(self.cls, _REST, ("", {}))
        options = self.options._replace(raises=tuple(dict.fromkeys([*self.options.raises, *errors])))
        access = getattr(self.cls, ACCESS, OPEN)
        found: dict[str, MethodSpec] = {}
        for owner in reversed(self.cls.__mro__):
            if not issubclass(owner, Service) or owner in (Service, Component, AbstractComponent):
                continue
            for name, function in vars(owner).items():
                if name.startswith("_"):
                    continue
                if inspect.isfunction(function):
                    found[name] = read_method(self.cls.__name__, name, function, self._names, options, access)
                elif isinstance(function, (classmethod, staticmethod, property)):
                    raise ServiceSignatureError(
                        f"{self.cls.__name__}.{name} is a {type(function).__name__}; an interface has "
                        "methods, whose first parameter is self"
                    )
        for name, route in read_routes(found, prefix, errors).items():
            found[name] = found[name]._replace(route=route)
        return found


class ComponentSpec(NamedTuple):
    """A component.

    :ivar cls: its class; None for one that was made for a service that stands in none.
    :ivar services: their interfaces.
    """

    cls: type | None
    name: str
    description: str
    services: tuple[type, ...]


def service(
    name: str = "",
    description: str = "",
    *,
    timeout: float | None = None,
    idempotent: bool = False,
    hedge_after: float | None = None,
    raises: Sequence[type[Exception]] = (),
) -> Callable[[_Class], _Class]:
    """Declare a class to be an interface.

    :param name: on the wire; default: the name of the class, ``ShopService`` as ``shop-service``.
    :param timeout: seconds that a call may take; default: the option ``service_timeout``. This and what
        follows is for the methods that say nothing else by :func:`method`.
    :param idempotent: called twice, each method does what it does once.
    :param hedge_after: seconds after which a second request is sent as well; of idempotent ones only.
    :param raises: exceptions of the methods that callers elsewhere get as what they are, and not as
        :class:`~evbus.errors.RemoteServiceError`: by the names of their classes, with what in them is plain.
    :raises ServiceSignatureError: it is no interface, or a method cannot travel; names it.
    """
    _refuse_class(name, "service")
    frame = sys._getframe(1)

    def declare(cls: _Class) -> _Class:
        if not _derives(cls, Service) or issubclass(cls, Component):
            raise ServiceSignatureError(
                f"@service() stands on a class that derives from Service, not {cls!r}"
            )
        options = _options(cls.__name__, timeout, hedge_after, raises, idempotent=idempotent)
        spec = ServiceSpec(
            cls, _named(name, cls), description or _described(cls), options, _local(cls, frame)
        )
        spec.check()
        setattr(cls, _SERVICE, spec)
        return cls

    return declare


def method(
    *written: Never,
    timeout: float | None = None,
    idempotent: bool = False,
    hedge_after: float | None = None,
    raises: Sequence[type[Exception]] = (),
) -> Callable[[_Function], _Function]:
    """Say of a method of an interface how it is called; see :func:`service`."""
    if written:
        _refuse_bare(written[0], "method")

    def declare(function: _Function) -> _Function:
        name = getattr(function, "__qualname__", repr(function))
        own = _options(name, timeout, hedge_after, raises, idempotent=idempotent)
        setattr(function, OPTIONS, own)
        return function

    return declare


def authorize(*scopes: Any, anonymous: bool = False) -> Callable[[_Declared], _Declared]:
    """Say of a method who may call it from outside; of an interface, that of its methods that say nothing.

    Where the setting ``auth`` has callers asked, those that are known may call what has no ``@authorize``.

    :param scopes: what the caller needs, all of them; none for anybody who is known.
    :param anonymous: anybody may, also who does not say who he is.
    :raises ServiceSignatureError: a scope is no word, or anybody may who needs scopes.
    """
    if scopes and not isinstance(scopes[0], str):
        _refuse_bare(scopes[0], "authorize")
    for scope in scopes:
        # RFC 6749, section 3.3.
        if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
            raise ServiceSignatureError(
                'a scope is a word without spaces, quotes and backslashes, as in @authorize("shop:read"), '
                f"and not {scope!r}"
            )
    if scopes and anonymous:
        raise ServiceSignatureError(
            "@authorize has scopes, which nobody who is anonymous has: leave out one of them"
        )

    def declare(declared: _Declared) -> _Declared:
        setattr(declared, ACCESS, Access(tuple(dict.fromkeys(scopes)), anonymous, declared=True))
        if isinstance(declared, type) and _SERVICE in vars(declared):
            service_spec(declared).check()
        return declared

    return declare


def rest(
    prefix: str = "", *, errors: Mapping[type[Exception], int] | None = None
) -> Callable[[_Class], _Class]:
    """Say of an interface where the paths of its methods begin; above or below :func:`service`.

    :param prefix: what stands before each path, ``/api``.
    :param errors: the status that stands for an exception of its methods, from 400 to 599, by its class;
        callers elsewhere get them as what they are, as those of ``raises`` of :func:`service`.
    :raises ServiceSignatureError: this is no prefix, no such table, or what has a path cannot have it.
    """
    _refuse_class(prefix, "rest")
    if not isinstance(prefix, str):
        raise ServiceSignatureError(f'write @rest("/prefix"), with the prefix, and not {prefix!r}')

    def declare(cls: _Class) -> _Class:
        setattr(cls, _REST, (prefix, check_errors(cls.__qualname__, errors or {})))
        if _SERVICE in vars(cls):
            service_spec(cls).check()
        return cls

    return declare


def component(
    name: str = "", description: str = "", services: Sequence[type] = ()
) -> Callable[[_Class], _Class]:
    """Declare a class to be a component: a bundle of services.

    :param name: on the wire and in registries; default: as for :func:`service`.
    :raises ServiceSignatureError: it is no component, or one of ``services`` is no interface.
    """
    _refuse_class(name, "component")

    def declare(cls: _Class) -> _Class:
        if not _derives(cls, Component):
            raise ServiceSignatureError(
                f"@component() stands on a class that derives from Component, not {cls!r}"
            )
        spec = ComponentSpec(cls, _named(name, cls), description or _described(cls), tuple(services))
        for one in services:
            listed = service_spec(one)
            listed.listed = tuple(dict.fromkeys([*listed.listed, spec.name]))
        setattr(cls, _COMPONENT, spec)
        return cls

    return declare


def implementation(*written: Never) -> Callable[[_Class], _Class]:
    """Say that a class implements an interface or a component, which it derives from.

    :raises ServiceSignatureError: it derives from none.
    """
    if written:
        _refuse_bare(written[0], "implementation")

    def declare(cls: _Class) -> _Class:
        setattr(cls, _IMPLEMENTS, True)
        if not interfaces_of(cls):
            raise ServiceSignatureError(
                f"{cls.__qualname__} implements nothing: it derives from no class with @service() or "
                "@component()"
            )
        return cls

    return declare


def service_spec(cls: Any) -> ServiceSpec:
    """Return the declaration of an interface.

    :raises ServiceSignatureError: it has none.
    """
    spec = vars(cls).get(_SERVICE) if isinstance(cls, type) else None
    if not isinstance(spec, ServiceSpec):
        name, hint = cls.__qualname__ if isinstance(cls, type) else repr(cls), ""
        if is_implementation(cls):
            above = [one.cls.__qualname__ for one in interfaces_of(cls) if isinstance(one, ServiceSpec)]
            hint = f"; it implements {', '.join(above)}, which is meant" if above else ""
        raise ServiceSignatureError(f"{name} is no interface: it has no @service(){hint}")
    return spec


def is_interface(cls: Any) -> bool:
    """Return whether a class itself is declared to be an interface."""
    return isinstance(cls, type) and _SERVICE in vars(cls)


def is_implementation(cls: Any) -> bool:
    """Return whether a class itself says that it implements something."""
    return isinstance(cls, type) and _IMPLEMENTS in vars(cls)


def interfaces_of(cls: type) -> list[ServiceSpec | ComponentSpec]:
    """Return what a class implements: the declarations of the classes that it derives from, nearest first."""
    declared = [vars(base) for base in cls.__mro__[1:]]
    return [found[key] for found in declared for key in (_SERVICE, _COMPONENT) if key in found]


def interfaces_in(module: ModuleType) -> list[ServiceSpec]:
    """Return the interfaces that a module declares, implements, or lists in a component."""
    found: dict[ServiceSpec, None] = {}
    for cls in vars(module).values():
        if not isinstance(cls, type) or cls.__module__ != module.__name__:
            continue
        if is_interface(cls):
            found[service_spec(cls)] = None
        if is_implementation(cls):
            found.update((spec, None) for spec in interfaces_of(cls) if isinstance(spec, ServiceSpec))
        if _COMPONENT in vars(cls):
            found.update((service_spec(one), None) for one in vars(cls)[_COMPONENT].services)
    return list(found)


def kebab(name: str) -> str:
    """Return ``ShopService`` as ``shop-service``."""
    return _WORDS.sub("-", name).replace("_", "-").lower()


def _options(
    where: str, timeout: float | None, hedge_after: float | None, raises: Any, *, idempotent: bool
) -> CallOptions:
    raises = tuple(raises) if isinstance(raises, (list, tuple)) else (raises,)
    for one in raises:
        if not _derives(one, Exception):
            raise ServiceSignatureError(f"{where}: raises is a list of exception classes, and has {one!r}")
    hedge = seconds(hedge_after, f"{where}: hedge_after")
    if hedge is not None and not idempotent:
        raise ServiceSignatureError(
            f"{where}: hedge_after sends a request twice, and so is for what is idempotent: add "
            "idempotent=True"
        )
    return CallOptions(seconds(timeout, f"{where}: timeout"), idempotent, hedge, raises)


def _derives(cls: Any, base: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, base)


def _named(name: Any, cls: type) -> str:
    found = name or kebab(cls.__name__)
    if not isinstance(found, str) or not _NAME.fullmatch(found):
        raise ServiceSignatureError(
            f"{cls.__qualname__}: a name is made of letters, digits, and - _ . between them, and not "
            f"{found!r}"
        )
    return found


def _described(cls: type) -> str:
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def _refuse_class(name: Any, decorator: str) -> None:
    if isinstance(name, type):
        _refuse_bare(name, decorator)


def _refuse_bare(decorated: Any, decorator: str) -> None:
    name = getattr(decorated, "__qualname__", repr(decorated))
    raise ServiceSignatureError(f"write @{decorator}() with its brackets on {name}")


def _local(cls: type, frame: FrameType) -> dict[str, Any]:
    """Return the variables of the function that declares a class, as nobody finds them later."""
    return dict(frame.f_locals) if "<locals>" in cls.__qualname__ else {}
