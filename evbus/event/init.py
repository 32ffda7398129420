"""Send typed events, and listen to them."""

import asyncio
import functools
import logging
import math

from evbus import errors
from evbus.engine.core.plugins import face as _face
from evbus.engine.core.plugins import load as _load
from evbus.engine.handling.events import declare as _declare
from evbus.engine.handling.events import listener as _listener
from evbus.engine.handling.events import listening as _listening
from evbus.engine.handling.events import modules as _modules
from evbus.engine.handling.events import reader as _reader
from evbus.engine.handling.events import registry as _registry
from evbus.engine.handling.events import subscriptions as _subscriptions
from evbus.engine.handling.events import unheard as _unheard

log = logging.getLogger("evbus.event")


def __init__(hub):
    """Declare the state; when POP rebuilds the sub this runs again and keeps what there is."""
    for name in ("send", "send_nowait", "subscribe", "unsubscribe", "listen", "settle"):
        _face.shorten(hub.event.init, name)
        setattr(hub.event, name, getattr(hub.event.init, name))
    if "SUBSCRIPTIONS" in vars(hub.event):
        return
    hub.event.REGISTRY = _registry.EventTypes()
    hub.event.KINDS = hub.event.REGISTRY.kinds
    hub.event.READER = _reader.Reader(lambda kind: _loader(hub, kind), hub.event.REGISTRY.found)
    hub.event.SUBSCRIPTIONS = _subscriptions.Subscriptions(
        lambda: hub.evbus.init.settings().drain_timeout, hub.evbus.OBSERVERS
    )
    hub.event.UNHEARD = _unheard.Unheard(
        lambda: _listened(hub),
        lambda *about: _elsewhere(hub, *about),
        lambda: hub.event.SUBSCRIPTIONS.changes,
    )
    hub.event.FILES = set()
    #: The subscriptions that :func:`listen` has made, by the identity of what was declared, which is kept.
    hub.event.LISTENED = {}
    hub.event.FORGOTTEN = _modules.Forgotten(lambda name, file: name == _load.name_in_pop(file))
    hub.event.LOOKING = None
    #: Whether listeners get nothing but what is in this process, as in a program that only sends.
    hub.event.LOCAL = False
    hub.evbus.CHECKS["listener"] = lambda module: _check(hub, module)
    for step in ("start", "ready", "stop", "abandon", "record_undelivered"):
        # Looked up each time, as POP may rebuild the sub.
        hub.evbus.LIFE[step].append(lambda *given, step=step: hub.event.init[step](*given))


async def send(hub, event, headers=None, profile="default"):
    """Send an event to its listeners, and to whatever else the profile leads to; wait while the bus is full.

    :param event: an instance of a class with ``@event()``.
    :param headers: string to string, sent along where the transport has headers.
    :param profile: a name; the event goes to every profile whose pattern matches it.
    :raises HandlerSignatureError: its class is no event.
    :raises SerializeError: it cannot be encoded; says where.
    :raises BusStopped: the bus is stopping or was stopped.
    """
    kind = hub.event.KINDS.get(type(event)) or hub.event.REGISTRY.kind(type(event))
    broker = hub.evbus.BROKER
    if broker.draining:
        broker.refuse_unless_callback()
    left = broker.offer(
        kind.spec.name, event, profile, kind.headers if headers is None else kind.headers_with(headers)
    )
    if left is not None:
        await broker.wait(left)


def send_nowait(hub, event, headers=None, profile="default"):
    """Send an event as :func:`send` does, without ever waiting.

    Works from any thread, before the loop runs, and while the bus drains. When the bus is full the option
    ``full_policy`` decides. Parameters and errors as for :func:`send`.

    :raises BusFull: the bus is full and ``full_policy`` is ``raise``.
    """
    kind = hub.event.KINDS.get(type(event)) or hub.event.REGISTRY.kind(type(event))
    broker = hub.evbus.BROKER
    left = broker.offer(
        kind.spec.name, event, profile, kind.headers if headers is None else kind.headers_with(headers)
    )
    if left is not None:
        broker.insist(*left)


def subscribe(
    hub,
    event_type_or_name=None,
    callback=None,
    name="",
    group="",
    per_process=False,
    metadata=None,
    profile="default",
    **options,
):
    """Let ``callback`` listen to an event from now on, or from the start on; return the subscription's id.

    It need not be awaited, and may be. What this process sends from now on comes to it, too; what others do,
    from when a broker has it, which ``await hub.event.init.ready()`` waits for.

    :param event_type_or_name: the class, or a name, or a pattern of names (``order.*``, ``order.#``): what
        comes then is plain values as long as there is no class of that name, or several were declared and
        none of them was sent or listened to. It may be called ``event_type``, or ``event``, as well.
    :param callback: a function of the event, or of ``(hub, event)``, plain or asynchronous; or a class
        deriving ``EventListener``. A parameter ``envelope`` gets the headers and what else came with it.
    :param name: those of one name share the events, in this process and others; default: that of the function
        or class, with a number when another listener of this process has it.
    :param metadata: kept for :func:`subscriptions`.
    :param options: the others of ``evbus.api.event_listener``.
    :raises HandlerSignatureError: the callback cannot be called with an event; or the bus runs, and something
        that the callback takes is provided by nobody.
    :raises ProfileError: the bus runs, and no profile that matches can be listened to, or one cannot give
        what is wanted.
    """
    event = _declare.event_of(event_type_or_name, options)
    _listener.refuse_uncallable(callback)
    name = name or hub.event.SUBSCRIPTIONS.free_name(_listener.short_name(callback))
    _declare.check_options(options)
    spec = _declare.listener_spec(event, name, group, per_process, profile=profile, **options)
    return _add(hub, spec, callback, metadata).id


def listen(hub, *where):
    """Subscribe the functions and classes with ``@event_listener`` of modules; return the subscriptions' ids.

    What this has subscribed already is not subscribed again.

    :param where: modules; packages, which stand for all modules in them; or such functions and classes.
    :raises HandlerSignatureError: there are none, or one cannot be called with an event.
    :raises HandlerExists: two listeners of one event have the same name.
    :raises ProfileError: the bus runs, and no profile that matches can be listened to, or one cannot give
        what is wanted.
    """
    found = {id(spec): (one, spec) for place in where for one, spec in _modules.listeners_of(place)}
    listened = hub.event.LISTENED
    there = hub.event.SUBSCRIPTIONS
    new = {key: one for key, one in found.items() if key not in listened or listened[key][1] not in there}
    for (key, (_, spec)), entry in zip(new.items(), _add_all(hub, new.values()), strict=True):
        listened[key] = (spec, entry.id)
    return [listened[key][1] for key in found]


async def unsubscribe(hub, id):  # noqa: A002 - what it is
    """End a subscription, at the broker, too, once what it is handling is handled; False if there is none."""
    return await hub.event.SUBSCRIPTIONS.remove(id)


def subscriptions(hub, event_name=None):
    """Describe every subscription, or those that get one event, in a list of mappings."""
    found = [entry.describe() for entry in hub.event.SUBSCRIPTIONS]
    return [one for one in found if event_name is None or _declare.gets(one["events"], event_name)]


def listens_outside(hub):
    """Return whether any listener gets what comes from outside this process."""
    return any(not consumer.local for entry in hub.event.SUBSCRIPTIONS for consumer in entry.consumers)


async def ready(hub):
    """Return once every listener gets what anybody sends from then on, as far as its transport tells.

    :raises Unavailable: a broker refused one of them at first, and its profile does not say to wait.
    :raises ProfileError: a profile cannot give what one of them wants.
    """
    await hub.event.SUBSCRIPTIONS.ready()


async def settle(hub, seconds=math.inf, enough=None):
    """Return when all that is in this process is handled, or after ``seconds``: whether it is so.

    :param enough: returns whether not to wait any longer; default: whether the stop of the bus is cut short.
    """
    engine = hub.evbus.ENGINE
    return await hub.event.SUBSCRIPTIONS.settle(
        seconds,
        lambda: engine.passing("internal") or hub.egress.internal.held(),
        enough or (lambda: engine.hurried),
    )


def lanes(hub):
    """Return the lanes for events that listeners gave up, by their name in the dead store."""
    found = {}
    for entry in hub.event.SUBSCRIPTIONS:
        # The name of its group has what was left when nobody of that was there any more.
        for name in (entry.listening.receiver, entry.listening.listener.name):
            found[_subscriptions.lane_of(name)] = entry
    return found


def start(hub, contexts):
    """Listen, to the profiles in ``contexts``; the bus calls this when it starts."""
    _subscribe_files(hub)
    hub.event.UNHEARD.begin()
    hub.ingress.INTERNAL.on_unwanted = hub.event.UNHEARD.take
    _, around = hub.evbus.init.interceptors()
    # Many listen to one profile.
    sources = functools.cache(functools.partial(_sources, hub, contexts))
    hub.event.SUBSCRIPTIONS.start(sources, around, hub.evbus.BROKER.max_body)
    hub.egress.internal.resume()
    # A program may subscribe what it has when the bus runs.
    hub.event.LOOKING = asyncio.get_running_loop().call_later(LOOK, _look, hub)


def abandon(hub):
    """Listen no more; the bus calls this when it has ended without having been stopped."""
    hub.dispatch.DISPATCHER.core.injector.let_go(_listener.HOLDER)
    if hub.event.LOOKING is not None:
        hub.event.LOOKING.cancel()
        hub.event.LOOKING = None
    if hub.event.SUBSCRIPTIONS.running:
        hub.event.SUBSCRIPTIONS.abandon()


async def stop(hub):
    """Listen no more; the bus calls this before it stops, so that listeners can still send.

    What is in this process is handled before, at most for the option ``drain_timeout``; what is left then is
    written to the dead store. What came from a broker and is not handled goes back there.
    """
    subscriptions = hub.event.SUBSCRIPTIONS
    if not subscriptions.running:
        return
    subscriptions.refuse_within()
    _look(hub)
    listening = not subscriptions.empty
    patience = hub.evbus.ENGINE.patience()
    if listening:
        cut_short = functools.partial(getattr, hub.evbus.ENGINE, "hurried")
        try:
            await asyncio.gather(
                subscriptions.pause(cut_short),
                hub.event.init.settle(math.inf, lambda: cut_short() or not patience.left()),
            )
        except asyncio.CancelledError:
            # Nobody waits any more, as after a second Ctrl-C, and nobody else knows what is left.
            hub.event.init.record_undelivered()
            raise
    hub.egress.internal.close(lambda group, events: _left(hub, group, events))
    if not listening:
        # Without a turn of the loop until here: the bus is to refuse events at once.
        subscriptions.abandon()
    else:
        await subscriptions.stop(0.2 if hub.evbus.ENGINE.hurried else patience.grace(1.0))
    await hub.dispatch.DISPATCHER.core.injector.release(_listener.HOLDER)


def record_undelivered(hub):
    """Let what is in this process be recorded, from another thread, as the loop does not get round to it."""
    for entry in hub.event.SUBSCRIPTIONS:
        for consumer in entry.consumers:
            consumer.pause()
    hub.egress.internal.close(lambda group, events: _left(hub, group, events))
    hub.event.SUBSCRIPTIONS.abandon()


def _look(hub):
    """Tell of listeners that nobody has subscribed, once in a run."""
    looking, hub.event.LOOKING = hub.event.LOOKING, None
    if looking is not None:
        looking.cancel()
        hub.event.FORGOTTEN.tell()


def _left(hub, group, events):
    """Record events that a group of listeners has not handled, and count them as dead with one of it."""
    members = [entry for entry in hub.event.SUBSCRIPTIONS if entry.listening.receiver == group]
    name = members[0].listening.listener.name if members else group
    tried = {event: count for entry in members for event, count in entry.listening.tried.items()}
    if members:
        members[0].listening.left(len(events))
    hub.evbus.ENGINE.keep(events, _subscriptions.lane_of(name), LATE, tried)


#: Seconds after the start in which a program may still subscribe what it has; then, or at the stop, listeners
#: that nobody has subscribed are told.
LOOK = 1.0

#: Why events are dead that nobody listens to any more.
LATE = "the bus was stopped before a listener had handled it"


def _listened(hub):
    """Return the names of the events that are listened to, each with those of its listeners."""
    found = {}
    for entry in hub.event.SUBSCRIPTIONS:
        for event in entry.events:
            found.setdefault(event.name, []).append(entry.listening.listener.name)
    return found


def _elsewhere(hub, envelope, profile):
    """Return whether an event goes to other lanes than those of this process, or is consumed by its key.

    Or to another profile of this process before this one, which counts it.
    """
    lanes = hub.evbus.ENGINE.lanes_of(envelope.profile)
    return (
        any(lane.key.plugin != "internal" for lane in lanes)
        or any(envelope.routing_key in subscribers for subscribers in hub.ingress.SUBSCRIBERS.values())
        or (bool(lanes) and lanes[0].key.profile != profile)
    )


def _sources(hub, contexts, profile):
    if not hub.event.LOCAL:
        return hub.evbus.bridge.sources(contexts, profile)
    try:
        found = hub.evbus.bridge.sources(contexts, profile)
    except errors.ProfileError:
        return []
    return [source for source in found if source.attach is not None]


def _loader(hub, content_type):
    plugin = hub.serialize[hub.serialize.init.by_content_type(content_type)]
    if _face.watched(plugin.load):
        return _reader.Loader(_face.direct(plugin.load))
    more = (getattr(plugin, name, None) for name in ("TYPED", "EXACT", "OWN"))
    return _reader.Loader(_face.direct(plugin.load), *more)


def _add(hub, spec, listener, metadata=None):
    events = hub.event.REGISTRY.wanted(spec)
    _tell_of_letters(hub, spec)
    _listener.refuse_other(listener, spec.event, spec.batch)
    made = _listener.made(listener, spec.name, hub, spec.concurrency, hub.dispatch.DISPATCHER.core.injector)
    listening = _listening.Listening(spec, made, hub.event.READER, lambda dead: _dead_letter(hub, dead))
    entry = hub.event.SUBSCRIPTIONS.add(spec, listening, events, metadata)
    _modules.subscribed(listener)
    return entry


def _tell_of_letters(hub, spec):
    """Tell of a name that looks like a pattern and is none, as the patterns of profiles are others."""
    words = spec.event.split(".") if isinstance(spec.event, str) else ()
    looks = any(len(word) > 1 and not {"*", "#"}.isdisjoint(word) for word in words)
    if looks and hub.event.REGISTRY.named(spec.event) is None:
        log.warning(
            "a listener listens to the name %r itself: in a pattern * and # are words between dots, as in "
            "order.* and order.#",
            spec.event,
        )


def _add_all(hub, found):
    """Subscribe listeners, or none of them; two of the same name are refused."""
    added = []
    try:
        for listener, spec in found:
            hub.event.SUBSCRIPTIONS.refuse_second(spec, _listener.short_name(listener))
            added.append(_add(hub, spec, listener))
    except BaseException:
        for entry in added:
            hub.event.SUBSCRIPTIONS.discard(entry)
        raise
    return added


async def _dead_letter(hub, dead):
    """Record an event that a listener gave up; return whether that is on the disk."""
    where = _subscriptions.lane_of(dead.listener)
    return await hub.evbus.ENGINE.give_up(dead.envelope, where, dead.reason, dead.attempts)


def _check(hub, module):
    """Refuse a file of the folder ``listener/`` without a listener, or with one that cannot be called."""
    found = list(_listener.declared(module))
    if not found:
        raise errors.PluginError("it has no listener: a function or class with @event_listener(Event)")
    for listener, spec in found:
        try:
            if not isinstance(spec.event, str):
                hub.event.REGISTRY.of(spec.event)
            _listener.check(listener, hub.dispatch.DISPATCHER.core.injector)
            _listener.refuse_other(listener, spec.event, spec.batch)
        except errors.HandlerError as exc:
            raise errors.PluginError(str(exc), line=_listener.line_of(listener)) from exc


def _subscribe_files(hub):
    for place, plugin in enumerate(hub.evbus.PLUGINS["listener"]):
        if plugin.state != "loaded" or plugin.file in hub.event.FILES:
            continue
        hub.event.FILES.add(plugin.file)
        try:
            _add_all(hub, _listener.declared(_load.module_of(plugin.file)))
        except Exception as exc:
            broken = plugin._replace(state="broken", reason=str(exc))
            hub.evbus.PLUGINS["listener"][place] = broken
            log.warning("plugin not loaded: %s", broken.error())
