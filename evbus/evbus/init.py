"""Start, stop and join the bus; read its options and load its plugins."""

import asyncio
import logging
import os
import threading
from collections.abc import Mapping

from evbus import errors
from evbus.engine.core import broker as _broker
from evbus.engine.core import endpoint as _endpoint
from evbus.engine.core import observe as _observe
from evbus.engine.core import profiles as _profiles
from evbus.engine.core import queue as _queue
from evbus.engine.core import settings as _settings
from evbus.engine.core.dead import store as _store
from evbus.engine.core.lifecycle import bus as _bus
from evbus.engine.core.lifecycle import plan as _plan
from evbus.engine.core.plugins import dirs as _dirs
from evbus.engine.core.plugins import face as _face
from evbus.engine.core.plugins import in_use as _in_use
from evbus.engine.core.plugins import installed as _installed
from evbus.engine.core.plugins import load as _load
from evbus.engine.core.plugins import shape as _shape

log = logging.getLogger("evbus")

#: The rooms that plugins can be dropped into, in the order in which they are loaded.
SUBSYSTEMS = (
    "match",
    "serialize",
    "pipeline",
    "connection",
    "ingress",
    "egress",
    "dispatch",
    "handler",
    "event",
    "listener",
    "registry",
    "channel",
    "service",
    "component",
    "health",
)

#: The steps of the life of a bus that rooms take part in, each with a function that they register.
STEPS = (
    "start",  # plain, of the profiles: the bus runs, and no event has left the queue yet
    "ready",  # waits for what that began
    "leave",  # a program that started the bus is done, and the rooms still take what is under way
    "stop",  # before the bus stops
    "close",  # when it has stopped
    "abandon",  # plain: the bus has ended without having been stopped
    "hurry",  # plain: a stop is to deliver no more
    "record_undelivered",  # plain, in another thread: the loop is blocked
    "unended",  # plain, in another thread: says what a stop that is under way waits for, "" for nothing
)

#: The functions that plugins of these rooms may have, and what they may say of themselves.
FUNCTIONS = {
    "ingress": (
        "publish",
        "publish_batch",
        "begin_batch",
        "publish_nowait",
        "ready",
        "open",
        "close",
        "request",
        "reply",
    ),
    "egress": ("consume", "attach", "check"),
}
FLAGS = ("SOLE", "OVERLAP", "READY", "PATTERNS")

#: Serialize plugins that are known to return bytes.
OURS = ("init", "json", "msgpack")

#: pop-serial's names for what other names have here.
SERIAL_NAMES = {"str": "init"}


def __init__(hub):
    """Declare the state; when POP rebuilds the sub this runs again and keeps what there is."""
    if "ENGINE" in vars(hub.evbus) or not _installed.is_ours(__file__):
        return
    with _installed.loading():
        _declare_state(hub)


def _declare_state(hub):
    _installed.take_out_copies(hub.evbus)
    _installed.declared(hub)
    _installed.open_later(hub)
    hub.evbus.CHECKS = dict(_shape.CHECKS)
    #: The functions that rooms have registered, by the step of the life of the bus in which they are called.
    hub.evbus.LIFE = {step: [] for step in STEPS}
    # Here, as the room may have been on the hub before the bus.
    hub.evbus.LIFE["close"].append(lambda: hub.connection.init.stop())  # noqa: PLW0108 - it is not there yet
    #: Whoever is told what happens on this bus.
    hub.evbus.OBSERVERS = _observe.Observers()
    for room in SUBSYSTEMS:
        _load.open_room(hub, room, f"evbus.{room}", merged=room not in _in_use.ROOMS)
    hub.evbus.STARTED = False
    hub.evbus.SERIAL_PLUGIN = _settings.Settings().serialize_plugin
    hub.evbus.PLUGINS = {}
    hub.evbus.SETTINGS = None
    #: The options whose folders are loaded, and the parts of the configuration.
    hub.evbus.LOADED_DIRS = None
    #: The folders of listeners and handlers that these options have led to.
    hub.evbus.LISTENED = {}
    #: The rooms of which a broken plugin ends what runs: the first is told by that, and not in the log, too.
    hub.evbus.NEEDED = ()
    hub.evbus.CONFIGURING = threading.RLock()
    hub.evbus.BUSY = False
    hub.evbus.AROUND = None
    #: The composed ``send`` of the pipeline plugins, or None.
    hub.evbus.SEND = None
    #: Makes the error of a pipeline plugin that was asked for and is not loaded: no event passes without it.
    hub.evbus.REFUSED = None
    hub.evbus.CONTEXTS = None
    hub.evbus.PROPAGATING = None
    hub.evbus.BUS = _queue.Queue()
    hub.evbus.BROKER = _broker.Broker(
        hub.evbus.BUS,
        prepare=lambda: _configure(hub),
        select=lambda: _serializer(hub),
        new=vars(hub.evbus),
        old=vars(hub.serialize),
    )
    hub.evbus.BROKER.addressed = hub.event.REGISTRY.addressed
    hub.evbus.ENGINE = _bus.Engine(
        hub.evbus.BUS, hub.evbus.BROKER, lambda state: _on_state(hub, state), hub.evbus.OBSERVERS
    )
    hub.evbus.OBSERVERS.on_change(lambda: _observed(hub))
    hub.evbus.BUSY = True
    for room in SUBSYSTEMS:
        _load_room(hub, room)
    for room in ("evbus", "log"):
        found = _in_vain(hub, room)
        if found:
            hub.evbus.PLUGINS[room] = found
    hub.evbus.BUS.count_in(hub.connection.WEIGHT)
    hub.evbus.BUSY = False


def _load_room(hub, room):
    """Load the plugins of a room, and say what of it installed packages declare in vain."""
    loaded = _load.load_plugins(hub[room], room, hub.evbus.CHECKS.get(room)) + _in_vain(hub, room)
    hub.evbus.PLUGINS[room] = sorted(loaded, key=lambda plugin: (plugin.name, plugin.file))


def _in_vain(hub, room):
    """Return broken plugins for what installed packages declare for a room and cannot be used."""
    return [problem for problem in _installed.declared(hub).problems if problem.subsystem == room]


def _on_state(hub, state):
    hub.evbus.STARTED = state in (_bus.BusState.RUNNING, _bus.BusState.DRAINING)
    if state is _bus.BusState.RUNNING:
        # Before the first event leaves the queue, or it would miss listeners of this process.
        for start_room in hub.evbus.LIFE["start"]:
            start_room(hub.evbus.CONTEXTS)
    elif state is _bus.BusState.STOPPED:
        for abandon in hub.evbus.LIFE["abandon"]:
            abandon()


async def start(hub, contexts):
    """Deliver events to the profiles in ``contexts`` until :func:`stop` is called.

    :param contexts: ``{provider: {name: data}}`` or ``{provider: [{name: data}, ...]}``; the key
        ``match_plugin`` names the matcher (default: ``hub.match.PLUGIN``).
    :raises ProfileError: a profile is wrong: names the key and what would be right.
    :raises PluginError: a pipeline plugin that was asked for is not loaded.
    """
    engine = hub.evbus.ENGINE
    engine.begin()
    try:
        loop = asyncio.get_running_loop()
        current = _pop_loop(hub).CURRENT_LOOP
        if current is None or not current.is_running():
            # What other plugins run through hub.pop.loop has to run here.
            hub.pop.loop.CURRENT_LOOP = loop
        plan = _make_plan(hub, contexts)
        hub.evbus.CONTEXTS = contexts
        await engine.run(plan)
    except BaseException as exc:
        engine.fail(exc)
        raise


def _pop_loop(hub):
    """Return ``hub.pop.loop``, without importing every event loop that is installed, as POP would with it."""
    with _installed.LOADING:
        hub.pop.sub.add(dyne_name="loop", load_all=False)
        return hub.pop.loop


async def join(hub):
    """Return once the bus is started and its listeners listen; raise what made the start fail."""
    await hub.evbus.ENGINE.join()
    for ready in hub.evbus.LIFE["ready"]:
        await ready()


async def stop(hub, steady=False):
    """Take no new events, deliver what is there, and return a report of what could not be delivered.

    ``put`` raises :class:`~evbus.errors.BusStopped` from now on; ``put_nowait`` still takes what log
    handlers and ``finally`` blocks have to say until everything is delivered. After the option
    ``drain_timeout`` (seconds) the rest is written to the dead store.

    :param steady: count these seconds from the last event that was delivered, or handled by a listener.
    """
    hub.evbus.ENGINE.patience((lambda: _delivered(hub)) if steady else None)
    for stop_room in reversed(hub.evbus.LIFE["stop"]):
        await stop_room()
    report = await hub.evbus.ENGINE.stop()
    for close in hub.evbus.LIFE["close"]:
        await close()
    return report


def record_undelivered(hub, blocked):
    """Record what is left, from another thread, as the stop does not end; return what is to be said of it.

    :param blocked: whether the event loop does not turn.
    """
    if blocked:
        for record in hub.evbus.LIFE["record_undelivered"]:
            record()
    report = hub.evbus.ENGINE.record_undelivered()
    said = "what was not delivered is lost: it cannot be had" if report is None else str(report)
    waits = [what for what in (unended() for unended in hub.evbus.LIFE["unended"]) if what]
    return f"{said}; {' and '.join(waits)} has not ended" if waits else said


def _delivered(hub):
    """Count the events that lanes have delivered and listeners handled."""
    found = sum(lane.counters.delivered for lane in hub.evbus.ENGINE.lanes.values())
    return found + sum(listener["handled"] for listener in hub.event.init.subscriptions())


def settings(hub):
    """Return the options of the section ``evbus``, read and checked, with the plugins loaded."""
    _configure(hub)
    return hub.evbus.SETTINGS[1]


def refuse_unknown(hub, names):
    """Refuse options that neither evbus nor a plugin has, where nobody else can have put them."""
    _settings.refuse_unknown(names, hub.evbus.init.settings())


def plugins(hub):
    """Return every plugin file by subsystem: name, file, state, and what is wrong with it."""
    _configure(hub)
    return hub.evbus.PLUGINS


def accepts(hub):
    """Return each loaded ingress plugin: its providers, the type of its profiles, and its functions."""
    return _loaded(hub, "ingress")


def sources(hub):
    """Return each loaded egress plugin: its providers, the type of its profiles, and its functions."""
    return _loaded(hub, "egress")


def check(hub, contexts, source="contexts"):
    """Check ``contexts`` as a start would, without starting; return the profiles.

    :raises ProfileError: the first thing that is wrong.
    """
    return _read(hub, contexts, hub.evbus.init.finder(contexts, source), source)


def connect(hub, contexts, source="contexts"):
    """Return a lane for each profile in ``contexts``."""
    find = hub.evbus.init.finder(contexts, source)
    return _plan.connect(
        _read(hub, contexts, find, source),
        hub.evbus.BUS,
        hub.evbus.ENGINE.dead_letter,
        find=find,
        source=source,
        ends=hub.evbus.init.ends(contexts, source),
        observers=hub.evbus.OBSERVERS,
    )


def _make_plan(hub, contexts):
    settings = hub.evbus.init.settings()
    hub.evbus.init.refuse_incomplete()
    _serializer(hub)  # that the option names one is seen now, not when the first event is put
    dead_store = hub.evbus.init.dead_store()
    problem = dead_store.try_out()
    if problem:
        log.warning("dead events will be lost: %s", problem)
    return _bus.RunPlan(
        lanes=hub.evbus.init.connect(contexts),
        find=hub.evbus.init.finder(contexts),
        ends=hub.evbus.init.ends(contexts),
        on_error=hub.evbus.init.error_callback(),
        contexts=contexts,
        dead_store=dead_store,
        drain_timeout=settings.drain_timeout,
        unheard=hub.event.UNHEARD.of_run,
    )


def dead_store(hub):
    """Return a dead store as the options say; nothing is made or opened."""
    settings = hub.evbus.init.settings()
    return _store.DeadStore(settings.dead_store_path(), settings.dead_store_bytes)


def error_callback(hub):
    """Return the function that the option ``error_callback_ref`` names, or None.

    :raises SettingsError: there is no such function on the hub.
    """
    ref = hub.evbus.init.settings().error_callback_ref
    if not ref:
        return None
    try:
        found = hub[ref]
    except Exception as exc:
        room, _, rest = str(ref).partition(".")
        why = _why(hub, room, rest.partition(".")[0]) if room in hub.evbus.PLUGINS else ""
        raise errors.SettingsError(
            f"evbus.error_callback_ref: the hub has no function {ref!r}: {why or exc}"
        ) from None
    if not callable(found):
        raise errors.SettingsError(f"evbus.error_callback_ref: {ref!r} is no function on the hub")
    return found


def _configure(hub):
    """Read the options again if they changed, load the plugins and compose the pipeline."""
    # Events may first be put by several threads at once.
    with hub.evbus.CONFIGURING:
        options = hub.OPT.get("evbus") if hub.OPT else None
        known = hub.evbus.SETTINGS
        if known is not None and known[0] is options:
            return
        if hub.evbus.BUSY:
            # A plugin file puts an event, or logs one, while it is loaded: it is not known yet how.
            raise errors.EvbusError("the plugins are being loaded; no event can be put before that is done")
        hub.evbus.BUSY = True
        try:
            with _installed.loading():
                _apply_options(hub, options, known)
        finally:
            hub.evbus.BUSY = False


def _apply_options(hub, options, known):
    given = dict(options or {})
    _load_plugins(hub, _settings.read_settings({key: given.get(key) for key in ("plugin_dirs", "listen_to")}))
    own = _settings.read_own(given, _settings.declared_options(_modules(hub)), os.environ)
    settings = _settings.read_settings(given, own)
    hub.serialize.json.configure(settings)
    hub.serialize.msgpack.configure(settings)
    hub.serialize.init.configure(settings)
    hub.evbus.REFUSED = refused = hub.evbus.pipeline.refused(settings)
    hub.evbus.SEND = hub.evbus.pipeline.compose(settings) if refused is None else None
    old = known[1].serialize_plugin if known is not None else _settings.Settings().serialize_plugin
    if old == hub.evbus.SERIAL_PLUGIN:
        hub.evbus.SERIAL_PLUGIN = settings.serialize_plugin
    if old == hub.serialize.PLUGIN:
        hub.serialize.PLUGIN = settings.serialize_plugin
    hub.evbus.SETTINGS = (options, settings)
    _observed(hub)


def _observed(hub):
    """Hand the options to the broker, and the pipeline with whoever wants to be told of what passes it."""
    if hub.evbus.SETTINGS is not None:
        settings = hub.evbus.SETTINGS[1]
        send = hub.evbus.OBSERVERS.before(hub.evbus.SEND, settings.max_body)
        hub.evbus.BROKER.configure(settings, send)


def _modules(hub):
    """Yield the module of every plugin that is loaded."""
    for found in hub.evbus.PLUGINS.values():
        for plugin in found:
            if plugin.state == "loaded":
                yield _load.module_of(plugin.file)


def _load_plugins(hub, settings):
    """Load the plugins of the options ``plugin_dirs`` and ``listen_to``, and tell which are broken."""
    asked = (settings.plugin_dirs, settings.listen_to, sorted(hub.OPT or ()))
    if asked == hub.evbus.LOADED_DIRS:
        return
    rooms = (*SUBSYSTEMS, "evbus")
    roots = _dirs.check_dirs(settings.plugin_dirs, rooms)
    used = _in_use.choose(settings.listen_to, hub.OPT or (), _installed.declared(hub))
    for room in rooms:
        folders = _dirs.folders_of(roots, room)
        if room in _in_use.ROOMS:
            _set_folders(hub, room, [*folders, *used[room]])
        elif folders:
            hub.pop.sub.extend(room, static=folders)
            _load_room(hub, room)
    for plugin in _in_use.others(_installed.declared(hub), used):
        hub.evbus.PLUGINS[plugin.subsystem].append(plugin)
    hub.evbus.LOADED_DIRS = asked
    needed = [plugin for room in hub.evbus.NEEDED for plugin in hub.evbus.PLUGINS[room]]
    ending = next((plugin for plugin in needed if plugin.state == "broken"), None)
    for found in hub.evbus.PLUGINS.values():
        for plugin in found:
            if plugin.state != "loaded" and plugin is not ending:
                level = logging.WARNING if plugin.state == "broken" else logging.INFO
                log.log(level, "plugin not loaded: %s", plugin.error())


def _set_folders(hub, room, folders):
    """Let a room have these folders in place of those of other options, beside those that others gave it."""
    before = hub.evbus.LISTENED.get(room, [])
    if folders != before:
        sub = hub[room]
        sub._static[:] = [folder for folder in sub._static if folder not in before] + folders
        sub._prepare()
        sub._cache_reset()
        hub.evbus.LISTENED[room] = folders
    _load_room(hub, room)


def refuse_incomplete(hub):
    """Let no event leave the bus, or be handled, while a pipeline plugin that was asked for is missing.

    :raises PluginError: says which, and why it is not loaded.
    """
    _configure(hub)
    if hub.evbus.REFUSED is not None:
        make = hub.evbus.REFUSED
        raise make()


def interceptors(hub):
    """Return ``(send, around)`` for what is handled in this process, each None when it is not needed.

    ``send(envelope)`` runs the active pipeline plugins' ``send``, and ``await around(envelope, handle)``
    their ``handle`` around ``handle(envelope)``, the last of them outermost; with a third argument for the
    one of several receivers that ``handle`` stands for (:class:`~evbus.engine.core.pipeline.Around`).
    Messages in
    process have headers and no body; without a plugin that has ``handle`` nobody would see these headers.

    :raises PluginError: a pipeline plugin that was asked for is not loaded.
    """
    hub.evbus.init.refuse_incomplete()
    return (None if hub.evbus.AROUND is None else hub.evbus.BROKER.prepare), hub.evbus.AROUND


def serialize_plugin(hub):
    """Return the name of the serialize plugin that new events are written with."""
    chosen = hub.evbus.SERIAL_PLUGIN
    if chosen == hub.evbus.init.settings().serialize_plugin:
        chosen = hub.serialize.PLUGIN
    return SERIAL_NAMES.get(chosen, chosen)


def _serializer(hub):
    """Return the serialize plugin that the application chose."""
    name = chosen = hub.evbus.init.serialize_plugin()
    loaded = {module.__name__: module for module in hub.serialize}
    if name in loaded:
        module = loaded[name]
        content_type = getattr(module, "CONTENT_TYPE", "application/octet-stream")
        apply = _face.direct(module.apply)
        if not _face.watched(module.apply):
            apply = getattr(module, "ENGINE", apply)
        return _broker.to_bytes(apply) if name not in OURS else apply, content_type
    why = _why(hub, "serialize", name)
    if why:
        # Another plugin of that name, of pop-serial, is not meant.
        raise errors.SettingsError(f"there is no serialize plugin {chosen!r}: {why}")
    if "serial" not in hub._subs:
        hub.pop.sub.add(dyne_name="serial", load_all=False)
        for plugin in _load.load_plugins(hub.serial, "serial"):
            if plugin.state == "broken":
                log.warning("plugin not loaded: %s", plugin.error())
    if name in hub.serial:
        return _broker.to_bytes(_face.direct(hub.serial[name].dump)), f"application/{name}"
    raise errors.SettingsError(f"there is no serialize plugin {chosen!r}{errors.absent(chosen, loaded)}")


def _why(hub, room, name):
    """Explain why a plugin is not loaded; return ``""`` when there is no file of that name."""
    found = [plugin for plugin in hub.evbus.PLUGINS[room] if plugin.name == name and plugin.state != "loaded"]
    return str(found[0].error()) if found else ""


def _loaded(hub, room):
    """Return every loaded plugin of a room, with its functions: around POP unless a contract watches."""
    _configure(hub)
    # Said once for both directions, where a plugin has a file in each.
    described = {
        module.__name__: _face.direct(module._funcs["describe"])
        for module in (*hub.egress, *hub.ingress)
        if "describe" in module._funcs
    }
    return [_plugin(room, module, described) for module in hub[room] if module.__name__ != "init"]


def _plugin(room, module, described):
    functions, name = module._funcs, module.__name__
    found = {each: _face.direct(functions[each]) for each in FUNCTIONS[room] if each in functions}
    if name in described:
        found["describe"] = described[name]
    if not _unwatched(functions, "publish"):
        found.pop("publish_batch", None)
    if not _unwatched(functions, "publish", "publish_batch"):
        found.pop("publish_nowait", None)
        found.pop("begin_batch", None)
    return _endpoint.Plugin(
        name,
        tuple(getattr(module, "ACCT", None) or [name]),
        getattr(module, "PROFILE", None),
        found,
        frozenset(flag for flag in FLAGS if getattr(module, flag, False)),
        publish=functions["publish"].func if "publish" in functions else None,
        subsystem=room,
    )


def _unwatched(functions, *names):
    """Return whether another function may stand for these: no contract waits for a call of theirs."""
    return not any(_face.watched(functions[name]) for name in names if name in functions)


def finder(hub, contexts, source="contexts"):
    """Return the matcher's ``find(name, pattern)``.

    :raises ProfileError: ``match_plugin`` names no matcher.
    """
    return _face.direct(_matcher(hub, contexts, source).find)


def ends(hub, contexts, source="contexts"):
    """Return the matcher's ``ends(pattern)``, None when it has none; raises as :func:`finder` does."""
    functions = _matcher(hub, contexts, source)._funcs
    if _face.watched(functions["find"]) or "ends" not in functions:
        return None
    return _face.direct(functions["ends"])


def _matcher(hub, contexts, source):
    if not isinstance(contexts, Mapping):
        kind = type(contexts).__name__
        raise errors.ProfileError(f"this is a mapping of providers to profiles, not {kind}", source=source)
    _configure(hub)  # which loads the folders of plugins
    name = contexts.get(_profiles.MATCH_PLUGIN) or hub.match.PLUGIN
    loaded = {module.__name__: module for module in hub.match}
    if not isinstance(name, str) or name not in loaded:
        why = _why(hub, "match", name)
        hint = f": {why}" if why else errors.absent(name, loaded)
        if not contexts.get(_profiles.MATCH_PLUGIN):
            raise errors.SettingsError(f"hub.match.PLUGIN: there is no matcher {name!r}{hint}")
        raise errors.ProfileError(
            f"there is no matcher {name!r}{hint}", source=source, path=_profiles.MATCH_PLUGIN
        )
    return loaded[name]


def missing(hub):
    """Return the errors of ingress plugins that are not loaded, by name: the broken, and the disabled."""
    _configure(hub)
    found = {"broken": {}, "disabled": {}}
    for plugin in hub.evbus.PLUGINS["ingress"]:
        if plugin.state in found:
            found[plugin.state].setdefault(plugin.name, str(plugin.error()))
    return found["broken"], found["disabled"]


def _read(hub, contexts, find, source):
    broken, disabled = hub.evbus.init.missing()
    return _profiles.read_profiles(
        contexts,
        hub.evbus.init.accepts(),
        source=source,
        find=find,
        broken={**disabled, **broken},
        others={provider for accept in hub.evbus.init.sources() for provider in accept.providers},
    )
