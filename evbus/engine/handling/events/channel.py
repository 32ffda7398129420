"""Channels of events and listeners, and the hosts of profiles, as their transports describe them."""

from __future__ import annotations

from evbus.engine.core.endpoint import Endpoint, router
from evbus.engine.wire.base.describe import host_of
from evbus.errors import ProfileError
from evbus.types import Channel, Envelope, Host, Subscription, Transport

__all__ = ["received", "sent", "servers", "transport"]


def transport(profile: Endpoint) -> Transport:
    """Return what the plugin of a profile says about it; of one that says nothing, its host."""
    describe = profile.plugin.functions.get("describe")
    if describe is None:
        return Transport([Host(host_of(profile.data.get("url")), profile.provider)])
    found: Transport = describe(profile.data if profile.settings is None else profile.settings)
    return found


def servers(profile: Endpoint) -> list[Host]:
    """Return the hosts of a profile, without any secret."""
    return transport(profile).hosts


def sent(profile: Endpoint, event: str, sent_with: str) -> Channel:
    """Return the channel that an event goes to.

    :param sent_with: the name of the profile that it is sent with.
    :raises EvbusError: its name makes no address there.
    """
    route = router(profile.routing_key)
    envelope = Envelope(sent_with, event)
    key = (route(envelope) if route else envelope).routing_key
    told = transport(profile).sent
    if told is None or isinstance(told, Channel):
        return told or Channel(key, "events")
    return told(key)


def received(found: Endpoint, wanted: Subscription) -> Channel:
    """Return the channel that a subscription consumes.

    :raises ProfileError: the profile cannot give what is wanted.
    """
    told = transport(found).received
    if told is None:
        return Channel(wanted.name, "events")
    try:
        return told(wanted)
    except ProfileError as exc:
        raise ProfileError(f"{found.provider}.{found.name}: {exc}") from None
