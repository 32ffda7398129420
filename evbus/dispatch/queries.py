"""Queries: each goes to exactly one handler, which answers it."""

from evbus.engine.core.plugins import face as _face


def __init__(hub):
    """Step over POP's wrapper for the function that every message goes through."""
    _face.shorten(hub.dispatch.queries, "handle")


def bind(hub, message, handler, argname=None, response_event=None, **initkwargs):
    """Let ``handler`` handle ``message``; see :meth:`~evbus.api.RequestRouter.bind`."""
    return hub.dispatch.DISPATCHER.queries.bind(message, handler, argname, response_event, **initkwargs)


def register(hub, message, argname=None, response_event=None, **initkwargs):
    """Return a decorator that binds a function or class and leaves it as it is; see :func:`bind`."""
    return hub.dispatch.DISPATCHER.queries.register(message, argname, response_event, **initkwargs)


async def handle(hub, message, key=None, wait_for_response=False, timeout=None, headers=None):
    """Hand a message to this router alone; see ``hub.dispatch.init.handle``."""
    return await hub.dispatch.DISPATCHER.queries.handle(message, key, wait_for_response, timeout, headers)


def forward(hub, message, to, response=None, timeout=30.0):
    """Have ``message`` handled in another process, which serves it (``hub.dispatch.init.serve``).

    :param message: a dataclass, msgspec Struct, attrs class or pydantic model, or a string.
    :param to: the name of a profile of the bus that brings replies back, such as one of AMQP or STOMP.
    :param response: the type of what comes back; default: plain values, as JSON has them.
    :param timeout: seconds until it is given up, where it is not handed over with a timeout of its own.
    :raises HandlerError: the message cannot travel, or has a handler here.
    """
    return hub.dispatch.init.forward("queries", message, to, response, timeout)
