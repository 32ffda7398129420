"""``evbus replay``: give dead events once more to the lanes that had given them up."""

from evbus.engine.cli import output as _output
from evbus.engine.cli import replay as _replay
from evbus.engine.cli import session as _session
from evbus.engine.kit import counted as _counted


async def main(hub, options):
    """Replay the dead store; succeed when every event in it was delivered."""
    store = hub.command.dead.store(options)
    if not _replay.files(store) and not _replay.asides(store):
        _output.say(f"there are no dead events: there is no file {store}\n")
        return _session.EXIT.OK
    # What dies again goes back to where it came from.
    hub.OPT = hub.pop.data.imap({**hub.OPT, "evbus": {**options, "dead_store": str(store)}})
    hub.event.LOCAL = True
    profiles = await hub.command.init.contexts(options)
    engine = hub.evbus.ENGINE
    lanes = {}
    replay = _replay.Replay(store, lanes)

    async def produce():
        for name, lane in engine.lanes.items():
            lanes[name] = (_relayed(engine, lane), lane.delivery.buffer)
        for name, listener in hub.event.init.lanes().items():
            lanes[name] = (listener.take, _replay.MOST)
        await replay.run()

    end = await hub.command.init.deliver(options, profiles, produce)
    dead_store = end.snapshot["dead_store"]
    problem = replay.finish(dead_store["lost"] + dead_store["pending"])
    for reason, count in replay.kept.items():
        _output.tell(f"evbus: {_counted.counted(count, 'event stays', 'events stay')} in {store}: {reason}")
    if problem:
        _output.tell(f"evbus: {problem}; run the replay again: nothing was removed")
    code = _session.exit_code(end)
    return code or (_session.EXIT.UNDELIVERED if replay.kept or problem else _session.EXIT.OK)


def _relayed(engine, lane):
    return lambda delivery: engine.relaying().relay(delivery, delivery.envelope, [lane])
