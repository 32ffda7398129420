"""Start and stop the services of this process, and call those of others."""

import logging
from collections.abc import Mapping

from evbus import errors
from evbus.engine.core.plugins import load as _load
from evbus.engine.handling.dispatch import declare as _declare

log = logging.getLogger("evbus.service")

#: The attribute of interfaces that says so.
INTERFACE = "__evbus_service__"

#: The rooms that have what is started.
ROOMS = ("component", "health")


def __init__(hub):
    """Declare the state; when POP rebuilds the sub this runs again and keeps what there is."""
    if "SERVICES" in vars(hub.service):
        return
    #: Made when they are first needed, as programs without services need not wait for the imports.
    hub.service.SERVICES = None
    #: The profiles that channels over brokers use, where they are not those of the bus.
    hub.service.PROFILES = None
    # Handlers, listeners and components take proxies as they take what is provided.
    hub.dispatch.DISPATCHER.core.injector.also(lambda kind: _proxy(hub, kind))
    hub.evbus.CHECKS["component"] = _check
    hub.evbus.CHECKS["health"] = _check_health
    # They may need the dispatcher to the end.
    hub.evbus.LIFE["leave"].insert(0, lambda: _leave(hub))
    hub.evbus.LIFE["hurry"].append(lambda: _hurry(hub))
    hub.evbus.LIFE["unended"].append(
        lambda: "" if hub.service.SERVICES is None else hub.service.SERVICES.ending
    )


def _proxy(hub, kind):
    """Return the proxy of an interface, None for what is none."""
    return hub.service.init.get(kind) if isinstance(kind, type) and INTERFACE in vars(kind) else None


def _services(hub):
    if hub.service.SERVICES is None:
        from evbus.engine.service import elsewhere as _elsewhere
        from evbus.engine.service import ground as _ground
        from evbus.engine.service import health as _health
        from evbus.engine.service import implementations as _implementations
        from evbus.engine.service import services as _engine

        injector = hub.dispatch.DISPATCHER.core.injector
        hub.service.SERVICES = _engine.Services(
            _ground.Ground(
                interceptors=lambda: _interceptors(hub),
                seconds=lambda: hub.evbus.init.settings().service_timeout,
                build=lambda cls: _implementations.build(cls, hub, injector),
                channels=lambda: {_elsewhere.LOCAL: False, **hub.channel.init.names()},
                channel_settings=lambda *about: hub.channel.init.settings(*about),  # noqa: PLW0108
                open_channel=lambda *about: hub.channel.init.open(*about),  # noqa: PLW0108
                open_registry=lambda *about: hub.registry.init.open(*about),  # noqa: PLW0108
                serve=lambda *about: _serve(hub, *about),
                serve_over=lambda *about: hub.channel.init.serve(*about),  # noqa: PLW0108
                reached=lambda *about: hub.channel.init.reached(*about),  # noqa: PLW0108
                bus=lambda result: _health.of_bus(hub.evbus.stats.snapshot(), result),
            )
        )
    return hub.service.SERVICES


def _interceptors(hub):
    """Return the pipeline's ``send`` and ``handle``, each None where there is none."""
    _, around = hub.evbus.init.interceptors()
    # Unlike messages in process, calls have receivers elsewhere that look at headers.
    return (hub.evbus.BROKER.prepare if hub.evbus.BROKER.prepares else None), around


async def start(hub, port=None, host=None, settings=None, client=False, profiles=None, acct_key=None):
    """Start the components of the folders ``component/``, and those of :func:`add`; let calls be made.

    Health checks are those of the folders ``health/``, those of :func:`add`, and the bus.

    :param port: of the HTTP server, 0 for any that is free; default: no server, unless the settings have one
        and there is something to serve: implementations, health checks, or what :func:`mount` was given.
    :param host: its address; default: that of the settings, else ``127.0.0.1``.
    :param settings: a mapping, or the path of a YAML file; default: the option ``services``.
    :param client: only let calls be made: no folder is looked at, and no server started.
    :param profiles: of brokers, which channels in the settings name: a mapping, or the path of a file, and
        ``acct_key`` its key; default: those that the bus was started with.
    :raises ServiceError: they are started already.
    :raises ConfigError: an option, a file or an implementation has to be mended.
    """
    from evbus.engine.service import settings as _settings

    if not client and not hub.evbus.NEEDED:
        hub.evbus.NEEDED = ROOMS
    services, options = _services(hub), hub.evbus.init.settings()
    read = _settings.read(options.services if settings is None else settings)
    read = read.unserved() if client else read.served(port, host)
    hub.channel.init.check(read)
    if not services.running:
        hub.service.PROFILES = profiles
        if profiles is not None and not isinstance(profiles, Mapping):
            hub.service.PROFILES = await hub.evbus.acct.load(profiles, acct_key)
        hub.channel.init.check_profiles(read, client)
    if not client:
        services.add(_files(hub))
    if read.server is not None and port is None and host is None and not services.serves:
        # The same file says to callers where the others are.
        log.info("nothing is implemented here, and so the server of the settings is not started")
        read = read.unserved()
    await services.start(read)


async def stop(hub, timeout=None):
    """Make known that the components are gone, let the calls under way end, and shut the components down.

    :param timeout: seconds that calls may take to end; default: the option ``drain_timeout``.
    """
    seconds = hub.evbus.init.settings().drain_timeout if timeout is None else timeout
    await _services(hub).stop(seconds)


def add(hub, *implementations):
    """Have implementations started with the next start, beside those in folders ``component/``.

    :param implementations: classes with ``@implementation()`` or ``@health_checks()``, or modules that have
        some.
    :raises ServiceSignatureError: one does not fit its interface, or an interface has two.
    """
    from evbus.engine.service import implementations as _implementations

    _services(hub).add(_implementations.classes(implementations))


def planned(hub):
    """Return the components that a start would run, of folders ``component/`` and of :func:`add`.

    :raises ConfigError: a file or an implementation has to be mended.
    """
    services = _services(hub)
    services.add(_files(hub))
    return services.planned()


def get(hub, interface, channel="", component=""):
    """Return a proxy of an interface: an object with its methods, which are called here or elsewhere.

    :param channel: over which; default: ``local`` where this process implements it, else that of
        :func:`set_preferred_channel`, else the first that the registry has for its component.
    :param component: the name of the component whose methods are called, where several have the interface;
        default: the one of this process, else the one that lists it.
    :raises ServiceSignatureError: this is no interface.
    :raises ServiceError: there is no such channel; names the nearest. Several components have the interface,
        and none of them is here.
    """
    return _services(hub).get(interface, channel, component)


def call(hub, interface, method, args=(), kwargs=None, channel="", component=""):
    """Call a method by its name; return what to await, or what it yields as an asynchronous iterator.

    Methods that are plain are awaited as well.

    :raises ServiceSignatureError: this is no interface.
    :raises ServiceError: there is no such method or channel; names the nearest.
    """
    return _services(hub).call(interface, method, args, kwargs or {}, channel, component)


def set_preferred_channel(hub, name):
    """Let calls go over a channel, of which nothing else was said, where their component has it.

    :param name: ``""`` for no preference.
    :raises ServiceError: there is no such channel; names the nearest.
    """
    _services(hub).set_preferred_channel(name)


def mount(hub, path, app):
    """Have the HTTP server serve another ASGI application as well, from the next start on.

    What Starlette and FastAPI do in their ``lifespan`` is done when the server starts and when it has ended.

    :param path: below which, such as ``/shop``.
    :param app: of Starlette, FastAPI or any other framework.
    :raises ConfigError: this is no such path.
    """
    if not isinstance(path, str) or not path.startswith("/") or not path.strip("/"):
        raise errors.ConfigError(f"an application is mounted below a path such as /shop, and not {path!r}")
    _services(hub).mounts[path.rstrip("/")] = app


def asgi(hub):
    """Return what the HTTP server serves, as an ASGI application for a server of somebody else.

    It is that of the implementations that run now; what belongs to the server itself, such as the limits on
    heads and slow clients, and TLS, is that server's business. Callers are asked by the setting ``auth``.

    :raises LocalServiceError: the services are not started.
    :raises MissingExtra: the extra ``service`` is not installed.
    """
    from evbus.engine.service import settings as _settings

    services = _services(hub)
    if not services.running:
        raise errors.LocalServiceError(
            "the services of this hub are not started; await hub.service.init.start() before they are served"
        )
    settings = services.settings.server or _settings.ServerSettings()
    return _site(hub).built(services, settings, settings.hosts)


def within(hub, seconds):
    """Return a context: calls that are made in it end so many seconds after its beginning."""
    from evbus.engine.service import remote as _remote

    return _remote.within(seconds)


def token(hub, value):
    """Return a context: calls that are made in it say by a bearer token who they are.

    It stands above the ``token`` of a channel, and below what a pipeline plugin has set.

    :raises ValueError: it is no token.
    """
    from evbus.engine.service import remote as _remote

    return _remote.token(value)


def caller(hub):
    """Return who has called the method that runs, from outside, a :class:`evbus.api.Caller`.

    None where nobody was asked: for calls from this process, and without the setting ``auth``. Its ``name``
    is ``""`` where anybody may call, and who does has not said who he is.
    """
    from evbus.engine.service import guard as _guard

    return _guard.caller()


async def look(hub):
    """Have the registry say of every component that it knows where it is: :func:`report` tells it then.

    :raises ServiceError: it cannot be asked, or does not know which components there are.
    """
    await _services(hub).look()


def report(hub):
    """Return what runs here, and what is known of others, in plain values."""
    return _services(hub).report()


async def _leave(hub):
    """Stop them with the program that started the bus; they and the bus have one time together."""
    if hub.service.SERVICES is not None and hub.service.SERVICES.running:
        await hub.service.init.stop(hub.evbus.ENGINE.patience().left())


def _hurry(hub):
    """Let a stop of them that is under way, or to come, wait for no call."""
    if hub.service.SERVICES is not None:
        hub.service.SERVICES.hurry()


async def _serve(hub, settings, services):
    """Start the HTTP server.

    :raises MissingExtra: the extra ``service`` is not installed.
    """
    return await _site(hub).served(services, settings)


def _site(hub):
    try:
        from evbus.engine.web import site as _site
    except ModuleNotFoundError as exc:
        from evbus.engine.service import callers as _callers

        raise _callers.missing(exc, "the HTTP server") from exc
    return _site


def _files(hub):
    """Yield the implementations of the folders ``component/``, and the checks of the folders ``health/``.

    :raises PluginError: one of the files cannot be used: its services would be missing.
    """
    from evbus.engine.service import health as _health
    from evbus.engine.service import implementations as _implementations

    found = hub.evbus.init.plugins()
    for room, inside in zip(ROOMS, (_implementations.classes_in, _health.checks_in), strict=True):
        for plugin in found[room]:
            if plugin.state == "broken":
                raise plugin.error()
            if plugin.state == "loaded":
                yield from inside(_load.module_of(plugin.file))


def _check_health(module):
    """Refuse a file of the folder ``health/`` without health checks."""
    from evbus.engine.service import health as _health

    if not _health.checks_in(module):
        raise errors.PluginError("it has no health checks: a class with @health_checks()")


def _check(module):
    """Refuse a file of the folder ``component/`` without an implementation, or with one that does not fit."""
    from evbus.engine.service import implementations as _implementations

    found = _implementations.classes_in(module)
    if not found:
        raise errors.PluginError("it has no implementation: a class with @implementation()")
    for cls in found:
        try:
            _implementations.check(cls)
        except errors.ServiceSignatureError as exc:
            raise errors.PluginError(str(exc), line=_declare.line_of(cls)) from exc
