"""Put events on the bus, and take them off it."""

import asyncio
import inspect
import logging

from evbus.engine.core import broker as _broker
from evbus.engine.core.lane import route as _route
from evbus.engine.core.plugins import face as _face
from evbus.engine.kit import failure as _failure

log = logging.getLogger("evbus.broker")


#: What put and put_nowait take, for ``inspect`` and for POP. They are written with ``*args`` to tell the
#: positional orders of all versions of pop-evbus apart.
_PUT_SIGNATURE = inspect.signature(
    lambda hub, routing_key=None, body=None, profile="default", headers=None: None
)


def __init__(hub):
    """Step over POP's wrapper for the two functions that every event goes through."""
    _face.shorten(hub.evbus.broker, "put")
    _face.shorten(hub.evbus.broker, "put_nowait")


async def put(hub, *args, routing_key=None, body=None, profile="default", headers=None):
    """Put an event on the bus; wait while the bus is full.

    :param routing_key: a string that is handed to the destinations; default: none, and for a body whose class
        has ``@event()`` the name of the event, as :func:`hub.event.init.send` has it.
    :param body: anything that the serialize plugin can encode. Bytes with a header ``content-type`` are
        taken as they are.
    :param profile: a name; the event goes to every profile whose pattern matches it.
    :param headers: string to string, sent along where the transport has headers.
    :raises SerializeError: the body cannot be encoded; says where. Nothing was queued.
    :raises PayloadTooLarge: the encoded body exceeds the option ``max_body``.
    :raises BusStopped: the bus is stopping or was stopped.
    """
    if args:
        routing_key, body, profile, headers = _broker.put_arguments(args, routing_key, body, profile, headers)
    broker = hub.evbus.BROKER
    if broker.draining:
        broker.refuse_unless_callback()
    left = broker.offer(routing_key, body, profile, headers)
    if left is not None:
        await broker.wait(left)


def put_nowait(hub, *args, routing_key=None, body=None, profile="default", headers=None):
    """Put an event on the bus without ever waiting.

    Works from any thread, before the loop runs, in a log handler, and while the bus drains. When the
    bus is full the option ``full_policy`` decides. Parameters and errors as for :func:`put`.

    :raises BusFull: the bus is full and ``full_policy`` is ``raise``.
    """
    if args:
        routing_key, body, profile, headers = _broker.put_arguments(args, routing_key, body, profile, headers)
    broker = hub.evbus.BROKER
    left = broker.offer(routing_key, body, profile, headers)
    if left is not None:
        broker.insist(*left)


put.__signature__ = put_nowait.__signature__ = _PUT_SIGNATURE


async def get(hub):
    """Take one event off the bus, waiting for it; for applications that drain the bus themselves."""
    hub.evbus.BROKER.refuse_in_child()
    return await hub.evbus.BUS.get()


async def init(hub):
    """Make the queue belong to the running loop, keep what was put before, and return it."""
    hub.evbus.init.refuse_incomplete()
    hub.evbus.BUS.bind(asyncio.get_running_loop())
    return hub.evbus.BUS


async def propagate(hub, contexts, event):
    """Publish one event, now, to every profile in ``contexts`` that matches; see :func:`wrap` for failures.

    For applications that take events off the bus themselves: no lane, no retry.
    """
    lanes, patterns = await _lanes(hub, contexts)
    matching = [lanes[place] for place in patterns.matching(event.profile)]
    await asyncio.gather(
        *(hub.evbus.broker.wrap(lane.key.plugin, event, contexts, _publish(lane, event)) for lane in matching)
    )


async def _lanes(hub, contexts):
    """Return the lanes that were made for ``contexts``, and their patterns."""
    known = hub.evbus.PROPAGATING
    loop = asyncio.get_running_loop()
    if known is not None and known[0] is contexts and known[1] is loop:
        return known[2:]
    hub.evbus.init.refuse_incomplete()
    lanes = hub.evbus.init.connect(contexts)
    patterns = _route.Patterns(
        [lane.key.profile for lane in lanes],
        hub.evbus.init.finder(contexts),
        hub.evbus.init.ends(contexts),
    )
    hub.evbus.PROPAGATING = (contexts, loop, lanes, patterns)
    if known is not None and known[1] is loop:
        # Those of a loop that ended, ended with it.
        for lane in known[2]:
            await lane.sender.close(5)
    return lanes, patterns


async def _publish(lane, event):
    outcome = (await lane.sender.send([event]))[0]
    if outcome is not None:
        raise outcome


async def wrap(hub, plugin_name, event, contexts, coro):
    """Await ``coro``; tell a failure to the log and to the function named by ``error_callback_ref``."""
    try:
        return await coro
    except Exception as exc:
        details = _failure.about(exc, str(exc), event)
        log.error(
            "plugin %s failed to publish an event of profile %s: %s%s",
            plugin_name,
            event.profile,
            exc,
            details,
        )
        log.debug("plugin %s failed to publish", plugin_name, exc_info=exc)
        callback = hub.evbus.init.error_callback()
        if callback is None:
            return None
        data = {
            "exception": exc,
            "plugin": plugin_name,
            "profile": event.profile,
            "body": event.body,
            "context": contexts,
        }
        result = callback(data)
        if inspect.isawaitable(result):
            await result
        return None
