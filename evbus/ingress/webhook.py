"""Send each event as an HTTP POST to one URL, signed by the Standard Webhooks specification.

The keys of a profile are documented at :class:`evbus.ingress._webhook.Profile`. Needs the extra
``webhook`` (aiohttp).
"""

import logging

from evbus.errors import MissingExtra
from evbus.ingress import _webhook

__func_alias__ = {"open_": "open", "close_": "close"}

LOG = logging.getLogger("evbus.ingress.webhook")


def __init__(hub):
    hub.ingress.webhook.ACCT = ["webhook"]
    hub.ingress.webhook.PROFILE = _webhook.Profile


async def open_(hub, ctx):
    """Return the HTTP client of one profile, its destination checked and nothing connected yet.

    :raises MissingExtra: aiohttp is not installed.
    :raises ProfileError: the url, a certificate file or the authentication is unusable.
    :raises DestinationForbidden: the url leads to a private or loopback address that ``allow`` does not
        hold, or is not http or https.
    """
    try:
        from evbus.ingress import _webhook_client
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("aiohttp", "yarl"):
            raise
        raise MissingExtra("the webhook destination", package="aiohttp", extra="webhook") from exc
    client = await _webhook_client.Client.open(ctx.profile)
    if ctx.profile.insecure and client.encrypted:
        LOG.warning(
            "webhook profile %r: insecure is set, so the certificate of %s is not verified and anybody on "
            "the way can read and change events; give the authority in ca_file instead",
            ctx.name,
            client.origin,
        )
    return client


async def publish(hub, ctx, routing_key, body, headers=None):
    """POST one event; it is delivered when the answer is 2xx.

    The event's headers are sent as HTTP headers, and its routing key as ``evbus-routing-key``. The
    ``webhook-id`` is the event's ``ce-id``, which the pipeline plugin ``stamp`` sets; without it every
    attempt has an id of its own, and a receiver cannot tell a second attempt from a second event.

    :raises Rejected: a header that HTTP cannot carry, a redirect, or a 4xx answer.
    :raises Unavailable: unreachable, too slow, or busy (408, 425, 429, 502, 503, 504), with the pause
        that ``Retry-After`` asks for.
    :raises DeliveryError: TLS verification failed, another 5xx, or a broken connection.
    """
    await ctx.state.send(routing_key, body, headers or {})


async def close_(hub, ctx):
    """Close the connections of one profile."""
    if ctx.state is not None:
        await ctx.state.close()
