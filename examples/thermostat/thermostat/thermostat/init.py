import asyncio
import pathlib


def __init__(hub):
    hub.pop.sub.add(dyne_name="evbus")


async def cli(hub):
    # "evbus" as well, so that its options come from the configuration file and the environment.
    hub.pop.config.load(["thermostat", "evbus"], cli="thermostat")
    profiles = hub.OPT.thermostat.profiles or pathlib.Path(__file__).parents[2] / "profiles.yml"
    await hub.evbus.broker.init()
    contexts = await hub.evbus.acct.profiles(acct_file=profiles)
    listener = asyncio.create_task(hub.evbus.init.start(contexts))
    await hub.evbus.init.join()
    try:
        await hub.thermostat.heating.run(target=hub.OPT.thermostat.target)
    finally:
        print(await hub.evbus.init.stop())
        await listener
