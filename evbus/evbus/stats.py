"""The counters of the bus."""


def snapshot(hub):
    """Return every counter, all taken at one moment. May be called from any thread.

    For the bus: ``accepted = routed + unmatched + got + dropped + queued``. For each lane under
    ``lanes`` (named ``plugin.provider.profile``): ``accepted = delivered + dead + dropped + queued +
    in_flight``. ``latency`` is the time from put to delivery in seconds (``p50``, ``p90``, ``p99``,
    ``max``), sampled from the last deliveries; sizes are in bytes. ``connections`` (named
    ``provider.profile``): ``state`` (connecting, up, down, closed), ``since`` (seconds since 1970),
    ``connects``, ``blocked`` (why the broker takes nothing) and ``last_error``. ``listeners`` (named by
    their ids): what ``hub.event.init.subscriptions`` returns of them. ``unheard``: by name, events that were
    sent while nobody listened to them, in this process or, as far as profiles tell, elsewhere. ``left_out``:
    by the name of a profile, headers that its protocol cannot carry.
    """
    return {
        **hub.evbus.ENGINE.snapshot(),
        "connections": hub.connection.init.states(),
        "listeners": {found["id"]: found for found in hub.event.init.subscriptions()},
        "unheard": dict(hub.event.UNHEARD.counts),
        "left_out": dict(vars(hub.ingress).get("LEFT_OUT", {})),
    }
