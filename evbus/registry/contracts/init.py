"""The interface of a registry: where the components of other processes are.

A registry is one file. The least that it has is one function::

    async def watch(hub, ctx, component): ...

It yields the addresses of a component, a list of ``(channel, address)`` with what is preferred first, and
again whenever they change; nothing for a component that it does not know. It may end when nothing will
change any more. It is called again when it raises, and when it yields nothing of a component that was known
before. The same file may also have:

``async def register(hub, ctx, component, addresses)``
    Makes known where a component of this process is.
``async def deregister(hub, ctx, component)``
    Makes known that it is gone.
``async def components(hub, ctx)``
    Returns the names of all components that it knows.
``async def open(hub, ctx)``
    Called once at the start; what it returns is ``ctx.state`` from then on.
``async def close(hub, ctx)``
    Called once at the end.

``ctx.name`` is its name, and ``ctx.acct`` its settings: what stands below its name in the option
``services``, below ``registry``. With ``hub.registry.<file>.PROFILE``, a ``msgspec.Struct``, they are
checked, and ``ctx.profile`` holds the result.

For registries that tell how a component is, ``ctx.health_path(component)`` returns the path at which its HTTP
server says so, and ``await ctx.status()`` the :class:`evbus.engine.service.health.Health` of this process.
"""
