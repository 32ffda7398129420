def __init__(hub):
    """Keep what is registered on the hub."""
    if "LOCAL" not in vars(hub.registry):
        hub.registry.LOCAL = {}


async def watch(hub, ctx, component):
    """Yield the addresses of a component of this process; of others nothing is known."""
    if component in hub.registry.LOCAL:
        yield hub.registry.LOCAL[component]


async def register(hub, ctx, component, addresses):
    """Keep the addresses of a component."""
    hub.registry.LOCAL[component] = list(addresses)


async def deregister(hub, ctx, component):
    """Forget a component."""
    hub.registry.LOCAL.pop(component, None)


async def components(hub, ctx):
    """Return the components of this process."""
    return list(hub.registry.LOCAL)
