"""Events: each goes to all of its handlers."""

from evbus.engine.call import forward as _forward
from evbus.engine.core.plugins import face as _face
from evbus.engine.handling import frame as _frame
from evbus.engine.handling import handler as _handler
from evbus.engine.handling.dispatch import publish as _publish


def __init__(hub):
    """Step over POP's wrapper for the function that every message goes through."""
    _face.shorten(hub.dispatch.events, "handle")


def bind(hub, message, handler=None, argname=None, response_event=None, publish_to=None, **initkwargs):
    """Let ``handler`` handle ``message``; see :meth:`~evbus.api.EventRouter.bind`.

    :param publish_to: put the event on the bus as well, with this profile; then there need be no handler.
    """
    if publish_to is not None:
        initkwargs["publish_to"] = publish_to
    return hub.dispatch.DISPATCHER.events.bind(message, handler, argname, response_event, **initkwargs)


def register(hub, message, argname=None, response_event=None, **initkwargs):
    """Return a decorator that binds a function or class and leaves it as it is; see :func:`bind`."""
    return hub.dispatch.DISPATCHER.events.register(message, argname, response_event, **initkwargs)


async def handle(
    hub, message, key=None, wait_for_response=False, timeout=None, headers=None, publish_to=None
):
    """Hand a message to this router alone; see ``hub.dispatch.init.handle``.

    :param publish_to: put this event on the bus as well, with this profile, before it is handed over; then
        there need be no handler.
    """
    dispatcher = hub.dispatch.DISPATCHER
    if publish_to is not None:
        if not dispatcher.running:
            dispatcher.core.refuse(_frame.CURRENT.get())
        bindings = dispatcher.events.find(message)
        # Bound to this profile as well, it is put there by that.
        if not any(binding.handler == ("publish", publish_to) for binding in bindings):
            await hub.dispatch.events.publish(message, publish_to, headers)
        if not bindings:
            return None
    return await dispatcher.events.handle(message, key, wait_for_response, timeout, headers)


async def publish(hub, event, profile, headers=None):
    """Put an event on the bus, and hand it to no handler.

    Its name, that of its class or the string that it is, is the routing key and the header
    ``evbus-message``; a string has no body beside that.

    :param profile: what the profiles of the bus are matched with.
    :param headers: string to string.
    :raises PayloadError: it cannot travel.
    """
    name = _publish.wire_name(event if isinstance(event, (str, type)) else type(event))
    body = None if isinstance(event, (str, type)) else event
    headers = {**(headers or {}), _forward.MESSAGE: name}
    await hub.evbus.broker.put(routing_key=name, body=body, profile=profile, headers=headers)


def add_event(hub, event):
    """Keep an event for the message that is being handled: sent when that succeeds, dropped when it fails.

    :raises DispatchError: called outside of a handler.
    """
    _handler.add_event(event)
