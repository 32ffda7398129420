READINGS = [20.2, 20.6, 21.1, 21.4, 20.9, 20.4]


async def run(hub, target):
    on = False
    for celsius in READINGS:
        await hub.evbus.broker.put(routing_key="room.temperature", body={"celsius": celsius}, profile="room")
        wanted = celsius < target + (0.3 if on else 0)
        if wanted != on:
            on = wanted
            await hub.evbus.broker.put(
                routing_key="heating.on" if on else "heating.off",
                body={"celsius": celsius, "target": target},
                profile="heating",
            )
