"""The interface of an ingress plugin.

The least that a plugin has is one function::

    async def publish(hub, ctx, routing_key, body): ...

``routing_key`` may be left out and ``headers`` added. The same file may also have:

``async def publish_batch(hub, ctx, events)``
    Sends many envelopes at once; returns a list with one outcome each, in order: None, or the exception.
``def begin_batch(hub, ctx, events)``
    A plain function beside ``publish_batch``, for plugins with ``OVERLAP``: hands all of the envelopes over
    without waiting, and returns a future of what ``publish_batch`` would return; or returns None, and hands
    over none, when it would have to wait, as while earlier ones are still to be handed over. An event that is
    put while nothing is in flight is then on its way before ``put`` returns.
``def publish_nowait(hub, ctx, events)``
    A plain function, for destinations in this process: takes all of the envelopes without waiting, or raises
    and takes none; then ``publish_batch`` or ``publish`` gets them. Saves every event a turn of the loop.
``def ready(hub, ctx)``
    A plain function, asked before events are published: None when the destination takes them, else why not,
    and an awaitable that ends when it does. Waiting counts as no attempt, and ends the moment that the
    destination is back.
``async def open(hub, ctx)``
    Called once for each profile before its first publish; what it returns is ``ctx.state`` from then on.
``async def close(hub, ctx)``
    Called once at the end for whatever was opened.
``async def request(hub, ctx, event, timeout)``
    Sends an envelope and returns the reply to it, an envelope. Raises DeliveryTimeout after ``timeout``
    seconds, and Unavailable when the connection is lost before; it does not send again by itself.
``async def reply(hub, ctx, address, event)``
    Sends an envelope to ``address``, the header ``reply-to`` of a request that came in. Raises Rejected when
    nobody waits there any more.
``def describe(hub, profile)``
    A plain function that returns what the message system does with a profile, an
    :class:`evbus.types.Transport`, for ``evbus asyncapi`` and ``evbus graph``. It may stand in the egress
    plugin of the same name instead. ``profile`` is the checked profile, or its data where there is no type.

``ctx.acct`` is the profile's data, ``ctx.name`` its name and ``ctx.provider`` its provider. A plugin says
in ``__init__(hub)`` which providers it accepts, ``hub.ingress.<plugin>.ACCT = ["slack"]`` (default: its own
name), and may give the type of its profiles, ``hub.ingress.<plugin>.PROFILE`` (a ``msgspec.Struct``):
then profiles are checked at start and ``ctx.profile`` holds the result.

``hub.ingress.<plugin>.OVERLAP = True`` says that ``publish_batch`` may be called again before it has
returned, because it hands over its events before it waits for anything: a lane with ``concurrency: 1`` then
has up to two batches in flight.

Raising means 'try again later'. Raising :class:`evbus.errors.Rejected` means 'never', and
:class:`evbus.errors.Unavailable` 'the destination is down': tried again for ever. What was in flight when a
connection broke gets one :class:`evbus.errors.ConnectionLost`: the lane finds the event that breaks it.
"""
