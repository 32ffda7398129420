"""Start and stop the dispatcher, and hand messages to whichever router has handlers for them."""

import asyncio
import logging

from evbus import types
from evbus.engine.call import forward as _forward
from evbus.engine.call import replies as _replies
from evbus.engine.call import serve as _serve
from evbus.engine.core import broker as _broker
from evbus.engine.core import error_callback as _error_callback
from evbus.engine.core.plugins import face as _face
from evbus.engine.core.plugins import load as _load
from evbus.engine.handling import frame as _frame
from evbus.engine.handling import signature as _signature
from evbus.engine.handling.dispatch import core as _core
from evbus.engine.handling.dispatch import declare as _declare
from evbus.engine.handling.dispatch import dispatcher as _dispatcher
from evbus.engine.handling.dispatch import publish as _publish_to
from evbus.engine.kit import redact as _redact

log = logging.getLogger("evbus.dispatch")

#: Requests that a server without a bound of its own is taken to work on at once.
MOST_WORKERS = 500


def __init__(hub):
    """Declare the state; when POP rebuilds the sub this runs again and keeps what there is."""
    known = vars(hub.dispatch).get("DISPATCHER")
    if known is None:
        hub.dispatch.DISPATCHER = known = _dispatcher.Dispatcher(the_hub=hub)
        hub.dispatch.HANDLERS = set()
        hub.dispatch.ERROR_CALLBACK = None
        hub.dispatch.LINKS = {}
        hub.dispatch.FORWARDER = _forward.Forwarder(
            lambda profile: _link(hub, profile),
            lambda profile: _check_link(hub, profile),
            lambda *parts: _encode(hub, *parts),
            lambda *parts: _decode(hub, *parts),
            lambda: known.core.around,
        )
        known.core.publish = lambda profile, event: _publish(hub, profile, event)
        known.core.on_failure = lambda failure: _tell(hub, failure)
        hub.evbus.LIFE["leave"].append(lambda: _leave(hub))
        hub.evbus.LIFE["hurry"].append(known.hurry)
        hub.evbus.CHECKS["handler"] = _declare.check(
            lambda handler, says: _check(hub, handler, says), lambda file: file in hub.handler._vmap
        )
    for name in ("start", "handle", "stop", "wait_for_shutdown"):
        _face.shorten(hub.dispatch.init, name)
        setattr(hub.dispatch, name, getattr(hub.dispatch.init, name))


def start(hub, engine_workers=None):
    """Bind the handlers of the folders ``handler/``, freeze the routers, and take messages from now on.

    It need not be awaited; awaited it makes first what handlers take and what has to be awaited.

    :param engine_workers: how many handlers each router runs at once, 0 for any number; default: the option
        of this name.
    :raises HandlerError: something that a handler takes is provided by nobody.
    :raises DispatchError: it is started already.
    :raises SettingsError: an option of the section ``evbus`` has a bad value.
    :raises ValueError: ``engine_workers`` is no such number.
    """
    if engine_workers is not None and not (type(engine_workers) is int and engine_workers >= 0):
        raise ValueError(
            f"engine_workers is a number of handlers, or 0 for any number, and not {engine_workers!r}"
        )
    settings = hub.evbus.init.settings()
    callback = hub.evbus.init.error_callback()
    send, around = hub.evbus.init.interceptors()
    dispatcher = hub.dispatch.DISPATCHER
    _bind_files(hub)
    started = dispatcher.start()
    # Not before: it raises when it is started already, and then all stays as it is.
    dispatcher.bound(
        settings.engine_workers if engine_workers is None else engine_workers, settings.dispatch_backlog
    )
    hub.dispatch.ERROR_CALLBACK = (
        None if callback is None else _error_callback.ErrorCallback(callback, lambda: None)
    )
    dispatcher.core.send, dispatcher.core.around = send, around
    return started


async def handle(hub, message, key=None, wait_for_response=False, timeout=None, headers=None):
    """Hand a message to its handlers: an event to all of them, a command or a query to the one it has.

    Without ``wait_for_response`` this returns as soon as the message is handed over (when very many wait,
    as soon as there are fewer); a failure of its handler is then logged, and told to the function that the
    option ``error_callback_ref`` names.

    :param message: an instance of a class that handlers are bound to, or of a subclass; or a string.
    :param key: messages with the same key are handled one after another, others at the same time.
    :param wait_for_response: return what the handler returns, or raise what it raises. Of an event, whose
        handlers may be several, nothing is returned, and the first failure raised when all have ended.
        The handler runs in the task of the caller: cancelled, it is cancelled, too.
    :param timeout: seconds from now after which the handler is cancelled; default: as long as it wants.
    :param headers: string to string, for interceptors and for handlers in another process.
    :raises HandlerDoesNotExist: no handler is bound to such a message.
    :raises DispatchTimeout: it was not handled within ``timeout``.
    :raises DispatchDeadlock: the handler that sends it holds, or waits for, the same key.
    :raises DispatcherNotStarted: call :func:`start` first.
    :raises DispatcherStopped: the dispatcher is stopping, and this is not called by a handler.
    """
    return await hub.dispatch.DISPATCHER.handle(message, key, wait_for_response, timeout, headers)


async def stop(hub, timeout=None):
    """Take no new messages, handle those that are there, close what was made for handlers; return a report.

    :param timeout: seconds that this may take, before what is not handled is given up; default: the option
        ``drain_timeout``.
    """
    _replies.stand_by()
    return await _end(hub, hub.dispatch.DISPATCHER.stop(_patience(hub, timeout)))


async def wait_for_shutdown(hub, timeout=None):
    """Wait for SIGINT or SIGTERM, then :func:`stop`; a second signal waits for nothing more."""
    return await _end(hub, hub.dispatch.DISPATCHER.wait_for_shutdown(_patience(hub, timeout)))


def use(hub, events_router_cls=None, commands_router_cls=None, queries_router_cls=None):
    """Put other routers in place of ours: subclasses of ``evbus.api.EventRouter`` and ``RequestRouter``.

    :raises HandlerExists: a router that is to be replaced has handlers, which would be lost.
    """
    hub.dispatch.DISPATCHER.use(
        events_router_cls=events_router_cls,
        commands_router_cls=commands_router_cls,
        queries_router_cls=queries_router_cls,
    )


def provide(hub, type, value):  # noqa: A002 - what it is
    """Let handlers take ``value`` by naming its type: ``async def handle(command, repo: Repo)``.

    :param type: a class.
    :param value: an instance of it, or ``Singleton["name": function]`` or ``Factory["name": function]``.
    :raises HandlerSignatureError: something of this type is provided already.
    """
    hub.dispatch.DISPATCHER.core.injector.provide(type, value)


def envelope(hub):
    """Return the envelope of the message that is being handled, with its headers; None when it has none.

    Messages have one when there are interceptors (pipeline plugins with ``handle``), when they were sent
    with headers, and when they come from another process.
    """
    frame = _frame.CURRENT.get()
    return None if frame is None else frame.envelope


def running(hub):
    """Return whether the dispatcher takes messages."""
    return hub.dispatch.DISPATCHER.running


def snapshot(hub):
    """Return the state, and for each router how much was handled, failed, runs, and waits."""
    return hub.dispatch.DISPATCHER.snapshot()


def forward(hub, router, message, to, response=None, timeout=30.0):
    """Have a message handled in another process; see ``hub.dispatch.commands.forward``."""
    found = getattr(hub.dispatch.DISPATCHER, router)
    found.check_open(message, f"in another process, over the profile {to!r}")
    binding = hub.dispatch.FORWARDER.binding(message, to, response, timeout)
    found.add(binding)
    return binding


async def serve(hub, profile, contexts=None, *, max_deliveries=0):
    """Handle the commands and queries that others forward to ``profile``, until cancelled or stopped.

    A request is settled when its reply is sent, so that it is handled again by another process when this one
    dies: at least once, and never after its deadline. Cancelled, it takes nothing more, and waits for what is
    being handled, at most for the option ``drain_timeout``. It returns when the dispatcher is stopped.

    :param profile: the name of a profile, or ``provider.name``; its queue holds the requests.
    :param contexts: the profiles; default: those that the bus was started with.
    :param max_deliveries: how often a request may be delivered where its broker counts that, as a process may
        die of it each time; then it is answered with an error. 0: any number.
    :raises ProfileError: there is no such profile, or it cannot be consumed from, or cannot reply.
    :raises ConnectFailed: there is no connection at first, and the profile does not say to wait.
    :raises DispatchError: the dispatcher does not run.
    """
    contexts = hub.evbus.rpc.contexts(contexts)
    link = hub.evbus.rpc.link(profile, contexts, replies=True)
    dispatcher = hub.dispatch.DISPATCHER
    dispatcher.core.refuse_unless_running()
    server = _serve.RequestServer(
        (dispatcher.commands, dispatcher.queries),
        link,
        hub.evbus.BROKER.reply,
        lambda *parts: _decode(hub, *parts),
        hub.evbus.BROKER.prepare,
        hub.evbus.BROKER.max_body,
        max_deliveries,
    )
    workers = min(dispatcher.commands.pool.limit, MOST_WORKERS)
    wanted = types.Subscription(concurrency=workers)
    deliveries = hub.evbus.bridge.consume(contexts, profile, wanted, any_size=True)
    # In a task of its own: who stops the dispatcher ends that, and cancels nobody.
    serving = asyncio.ensure_future(server.run(deliveries, _patience(hub, None)))
    dispatcher.intakes.add(serving)
    serving.add_done_callback(dispatcher.intakes.discard)
    await _serve.served(serving)


async def _leave(hub):
    """Stop the dispatcher with the program that started the bus; it and the bus have one time together."""
    if hub.dispatch.DISPATCHER.running:
        patience = hub.evbus.ENGINE.patience()
        # What listeners have still to handle may need it.
        await hub.event.init.settle(patience.left())
        await hub.dispatch.init.stop(patience.left())


async def _end(hub, ending):
    """Await what ends the dispatcher, and end what only this hub has of it."""
    try:
        return await ending
    finally:
        # Who was cancelled while waiting for a signal has not stopped it.
        if hub.dispatch.DISPATCHER.core.state is _core.DispatcherState.STOPPED:
            await _close_links(hub)
            await _told(hub)


async def _publish(hub, profile, event):
    """Put an event on the bus that is bound to a profile, with the headers that it was handed over with."""
    envelope = hub.dispatch.init.envelope()
    await hub.dispatch.events.publish(event, profile, None if envelope is None else envelope.headers)


def _link(hub, profile):
    """Return the link over a profile, made at the start; the first request opens it."""
    links = hub.dispatch.LINKS
    if profile not in links:
        links[profile] = hub.evbus.rpc.link(profile)
    return links[profile]


def _check_link(hub, profile):
    """Look for a profile that messages are forwarded to; a bus that is started later is asked later."""
    if hub.evbus.CONTEXTS is not None:
        _link(hub, profile)


async def _close_links(hub):
    links = list(hub.dispatch.LINKS.values())
    hub.dispatch.LINKS.clear()
    await asyncio.gather(*(link.close() for link in links), return_exceptions=True)


def _encode(hub, name, body, profile, headers):
    return hub.evbus.BROKER.envelope(name, body, profile, headers)


def _decode(hub, content_type, data, exactly):
    plugin = hub.serialize[hub.serialize.init.by_content_type(content_type)]
    load = getattr(plugin, "EXACT", None) if exactly and not _face.watched(plugin.load) else None
    return (load or plugin.load)(data)


def _patience(hub, timeout):
    return hub.evbus.init.settings().drain_timeout if timeout is None else timeout


def _bind_files(hub):
    """Bind what the files in folders ``handler/`` declare; what cannot be bound is a broken plugin."""
    plugins = hub.evbus.PLUGINS["handler"]
    for place, plugin in enumerate(plugins):
        if plugin.state == "loaded" and plugin.file not in hub.dispatch.HANDLERS:
            hub.dispatch.HANDLERS.add(plugin.file)
            broken = _bind_file(hub, plugin)
            if broken is not None:
                plugins[place] = broken
                log.warning("plugin not loaded: %s", broken.error())


def _bind_file(hub, plugin):
    """Bind all handlers of a file, or none of them; return what is to be said of it then."""
    watched = {fn.func: fn for fn in hub.handler[plugin.name]._funcs.values() if _face.watched(fn)}
    bound = []
    for _, handler, says in _declare.declarations(_load.module_of(plugin.file)):
        router = getattr(hub.dispatch.DISPATCHER, says.router)
        try:
            bound.append((router, router.bind(says.message, watched.get(handler, handler), **says.options)))
        except Exception as exc:
            for router, binding in bound:
                router.remove(binding)
            return plugin._replace(state="broken", reason=str(exc), line=_declare.line_of(handler))
    return None


def _check(hub, handler, says):
    """Check what can be known of a handler before there is a start; see :func:`_bind_file`."""
    options = dict(says.options)
    argname, response_event = options.pop("argname"), options.pop("response_event")
    publish_to = options.pop("publish_to", None) if says.router == "events" else None
    plan = _signature.read(
        handler,
        message=says.message,
        name=getattr(handler, "__qualname__", ""),
        argname=argname,
        given=options,
        provided=hub.dispatch.DISPATCHER.core.injector.find,
    )
    if response_event is not None:
        _signature.check_response(plan, response_event)
    if publish_to is not None:
        _publish_to.publisher(says.message, publish_to, None)


def _tell(hub, failure):
    if hub.evbus.OBSERVERS.dead is not None:
        reason = _redact.problem_text(failure.exception)
        where = f"handler {failure.handler}"
        hub.evbus.OBSERVERS.dead(failure.message, where, reason, 1, failure.exception)
    if hub.dispatch.ERROR_CALLBACK is not None:
        hub.dispatch.ERROR_CALLBACK.tell(
            {
                "exception": failure.exception,
                "plugin": f"dispatch.{failure.router}",
                "profile": None,
                "body": failure.message,
                "context": {"handler": failure.handler, "key": failure.key},
            }
        )


async def _told(hub):
    if _broker.IN_CALLBACK.get():
        return  # the callback itself stops the dispatcher, and cannot wait for its own end
    callback, hub.dispatch.ERROR_CALLBACK = hub.dispatch.ERROR_CALLBACK, None
    if callback is not None:
        await callback.wait(_patience(hub, None))
        await callback.close(1.0)
