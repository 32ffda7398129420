"""The interface of an egress plugin.

It has one function, an asynchronous generator::

    async def consume(hub, ctx, subscription): yield Delivery(...)

``ctx`` is as for ingress plugins: ``ctx.acct`` the profile's data, ``ctx.profile`` the checked profile when
the plugin gives its type in ``hub.egress.<plugin>.PROFILE``, ``ctx.name`` and ``ctx.provider``. A plugin says
in ``hub.egress.<plugin>.ACCT`` which providers it accepts (default: its own name).

``subscription`` is a :class:`evbus.types.Subscription`. The generator yields one
:class:`evbus.types.Delivery` after the other, never more than ``prefetch`` unsettled ones, and goes on for
ever: when the connection is lost it is restored, and what was not settled comes again. It ends when it is
closed (``aclose``), which is when its consumer leaves the queue; deliveries that it yielded before can be
settled until then.

A plain ``def check(hub, ctx, subscription)`` may raise :class:`evbus.errors.ProfileError` for a subscription
that the profile cannot give: it is called where one is made, before ``consume``.

Raising ends the consumer: :class:`evbus.errors.ConfigError` and :class:`evbus.errors.ConnectFailed` for what
a person has to mend.
"""
