"""What a broker of AMQP 1.0 does with a profile; AsyncAPI's bindings of it are there, and empty."""

from __future__ import annotations

from functools import partial

import msgspec

from evbus.engine.wire.amqp1.address import model_of, source, target
from evbus.engine.wire.amqp1.profile import Profile
from evbus.engine.wire.base.describe import PROCESS, brokers, login_of
from evbus.types import Channel, Subscription, Transport

__all__ = ["describe"]


def describe(profile: Profile) -> Transport:
    """Return what there is to say of a profile; which broker it is for, as far as it can be seen."""
    where, model = profile.where(), model_of(profile, {})
    said = "over TLS" if where.tls else ""
    exchange = (profile.address or "").startswith(("/exchange/", "/exchanges/", "/topic/"))
    groups = profile.routing == "multicast" if model == "artemis" else exchange
    return Transport(
        brokers(where, "amqp1", "1.0", login_of(profile.auth, where), said),
        partial(_sent, profile),
        partial(_received, profile),
        groups=groups,
        copies=groups and model != "rabbitmq4",
        durable=profile.durable,
        dead_letters=True,
    )


def _sent(profile: Profile, key: str) -> Channel:
    where = target(profile, model_of(profile, {}), key)
    return _channel(where.address, "address", where.capabilities)


def _received(profile: Profile, wanted: Subscription) -> Channel:
    own = msgspec.structs.replace(profile, server_name=profile.server_name or PROCESS)
    where = source(own, model_of(own, {}), wanted)
    return _channel(where.address, "queue", where.capabilities)


def _channel(address: str, kind: str, capabilities: tuple[str, ...]) -> Channel:
    extra = {"capabilities": list(capabilities)} if capabilities else None
    return Channel(address, kind, "amqp1", extra=extra)
