"""Requests and replies over the profiles whose transport brings replies back."""

from evbus import errors
from evbus.engine.call import requests as _requests


def link(hub, profile, contexts=None, replies=False):
    """Return a link (``request``, ``reply``, ``close``) over the profile called ``profile``.

    It opens its connection by itself, with the first request or reply. Close it in the end.

    :param profile: its name, or ``provider.name`` when several providers have one of that name.
    :param contexts: the profiles; default: those that the bus was started with.
    :param replies: it is to send replies to the requests of others; otherwise requests.
    :raises ProfileError: there is no such profile, or its plugin cannot do that.
    """
    contexts = hub.evbus.rpc.contexts(contexts)
    plugins = hub.evbus.init.accepts()
    found = _requests.find(hub.evbus.init.check(contexts), plugins, profile, replies=replies)
    return _requests.RequestLink(found)


def contexts(hub, given=None):
    """Return ``given``, or else the profiles that the bus was started with.

    :raises ConfigError: it was not started, and nothing is given.
    """
    if given is not None:
        return given
    if hub.evbus.CONTEXTS is None:
        raise errors.ConfigError(
            "the bus has no profiles yet: start it first (hub.evbus.init.start(contexts)), or pass contexts"
        )
    return hub.evbus.CONTEXTS
