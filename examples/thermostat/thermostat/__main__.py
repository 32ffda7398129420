import asyncio

import pop.hub

hub = pop.hub.Hub()
hub.pop.sub.add(dyne_name="thermostat")
asyncio.run(hub.thermostat.init.cli())
