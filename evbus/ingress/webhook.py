"""Send each event as an HTTP POST to one URL, signed by the Standard Webhooks specification.

The keys of a profile are documented at :class:`evbus.engine.wire.http.webhook.WebhookProfile`. Needs the
extra ``webhook`` (aiohttp).
"""

import functools
import logging

from evbus.engine.kit import redact as _redact
from evbus.engine.wire.http import webhook as _webhook
from evbus.errors import MissingExtra

__func_alias__ = {"open_": "open", "close_": "close"}

LOG = logging.getLogger("evbus.ingress.webhook")


def __init__(hub):
    hub.ingress.webhook.ACCT = ["webhook"]
    hub.ingress.webhook.PROFILE = _webhook.WebhookProfile
    if "LEFT_OUT" not in vars(hub.ingress):
        #: By profile: how many headers of its events were left out, as HTTP cannot carry them.
        hub.ingress.LEFT_OUT = {}


async def open_(hub, ctx):
    """Return the HTTP client of one profile, its destination checked and nothing connected yet.

    :raises MissingExtra: aiohttp is not installed.
    :raises ProfileError: the url, a certificate file or the authentication is unusable.
    :raises DestinationForbidden: the url leads to a private or loopback address that ``allow`` does not
        hold, or is not http or https.
    """
    try:
        from evbus.engine.wire.http import client as _client
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("aiohttp", "yarl"):
            raise
        raise MissingExtra("the webhook destination", package="aiohttp", extra="webhook") from exc
    left_out = functools.partial(_leave_out, hub, ctx.name)
    max_body = hub.evbus.init.settings().max_body
    client = await _client.Client.open(ctx.profile, max_body, left_out)
    if ctx.profile.insecure and client.encrypted:
        LOG.warning(
            "webhook profile %r: insecure is set, so the certificate of %s is not verified and anybody on "
            "the way can read and change events; give the authority in ca_file instead",
            ctx.name,
            client.origin,
        )
    return client


def _leave_out(hub, profile, name, why):
    """Count a header that HTTP cannot carry; the first of a profile is told."""
    counts = hub.ingress.LEFT_OUT
    counts[profile] = counts.get(profile, 0) + 1
    if counts[profile] == 1:
        LOG.warning(
            "webhook profile %r: the header %r is left out, as HTTP cannot carry it: %s; further ones are "
            "counted under left_out in hub.evbus.stats.snapshot()",
            profile,
            _redact.one_line(name, 100),
            why,
        )


def describe(hub, profile):
    """Return what there is to say of a profile: of its address nothing but the host."""
    return _webhook.describe(profile)


async def publish(hub, ctx, routing_key, body, headers=None):
    """POST one event; it is delivered when the answer is 2xx.

    The event's headers are sent as HTTP headers, and its routing key as ``evbus-routing-key``. That and the
    attributes of CloudEvents (``ce-...``) are percent-encoded as its HTTP binding says (section 3.1.3.2).
    Headers that HTTP cannot carry are left out, and counted under ``left_out`` in the snapshot of
    ``hub.evbus.stats``. A body that the pipeline plugin ``compress`` compressed is sent as it was before.

    The ``webhook-id`` is the event's ``ce-id``, which the pipeline plugin ``stamp`` sets, or the id in a
    CloudEvent in JSON; without either every attempt has an id of its own, and a receiver cannot tell a second
    attempt from a second event.

    :raises Rejected: a redirect, or a 4xx answer.
    :raises Unavailable: unreachable, too slow, or busy (408, 425, 429, 502, 503, 504), with the pause
        that ``Retry-After`` asks for.
    :raises DeliveryError: TLS verification failed, another 5xx, or a broken connection.
    """
    await ctx.state.send(routing_key, body, headers or {})


async def close_(hub, ctx):
    """Close the connections of one profile."""
    if ctx.state is not None:
        await ctx.state.close()
