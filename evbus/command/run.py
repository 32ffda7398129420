"""``evbus run``: read events from lines and deliver them."""


async def main(hub, options):
    """Deliver the events of the input to the profiles that match."""
    profiles = await hub.command.init.contexts(options)
    return await hub.command.init.read(options, profiles)
