"""From one message system into others: consume, and hand every delivery to the lanes that match."""

import contextlib
import functools
import logging
import time

from evbus import errors, types
from evbus.engine.core.intake import bridge as _bridge
from evbus.engine.core.intake import sources as _sources
from evbus.engine.kit import failure as _failure
from evbus.engine.kit import redact as _redact
from evbus.engine.kit import waiting as _waiting

log = logging.getLogger("evbus.bridge")

#: Deliveries that a bridge works on at once: what a lane hands over at once, by default.
BATCH = 500


def check(hub, contexts, source, profile="default", file="contexts"):
    """Return the profile ``source``, if :func:`run` can consume from it and ``profile`` leads somewhere else.

    :param file: what ``contexts`` are called in errors.
    :raises ConfigError: says what to mend.
    """
    found = _sources.find(contexts, source, hub.evbus.init.sources(), file)
    profiles, find = hub.evbus.init.check(contexts, file), hub.evbus.init.finder(contexts, file)
    _sources.check(found, profile, profiles, find)
    return found


def consume(hub, contexts, source, subscription=None, *, any_size=False):
    """Return an asynchronous generator of what comes in through the profile ``source``.

    Each :class:`~evbus.types.Delivery` is to be settled once. Close the generator when no more is wanted
    (``contextlib.aclosing``), and settle what it yielded before. The bus need not run.

    :param contexts: profiles, in either shape.
    :param source: the name of a profile, or ``provider.name`` when several providers have one of that name.
    :param subscription: what is wanted (:class:`~evbus.types.Subscription`); default: the queue that the
        profile names.
    :param any_size: yield bodies above the option ``max_body`` as well; else these are dead letters.
    :raises ProfileError: there is no such profile, or it cannot be consumed from.
    """
    found = _sources.find(contexts, source, hub.evbus.init.sources())
    deliveries = _open(found, subscription)
    return deliveries if any_size else _bounded(hub, found, deliveries)


async def _bounded(hub, found, deliveries):
    """Yield deliveries, and give up those whose bodies are too large."""
    hub.evbus.init.settings()
    async with contextlib.aclosing(deliveries):
        async for delivery in deliveries:
            try:
                _check_size(hub, delivery.envelope)
            except errors.PayloadTooLarge as exc:
                await _refuse(hub, found.full_name, delivery, exc)
            else:
                yield delivery


def _check_size(hub, event):
    size, limit = len(event.body), hub.evbus.BROKER.max_body
    if size > limit:
        raise errors.PayloadTooLarge(size, limit)


async def _refuse(hub, where, delivery, problem):
    """Record a delivery that nobody gets; without a bus, what its source does with it has to do."""
    try:
        recorded = await hub.evbus.ENGINE.give_up(delivery.envelope, where, problem, 0)
    except errors.BusStopped:
        log.error("%s: a delivery is refused: %s", where, problem)
        recorded = True
    if recorded:
        delivery.reject()


def sources(hub, contexts, profile):
    """Return an ``EventSource`` for each profile that ``profile`` matches and that can be consumed from.

    :raises ProfileError: there is none.
    """
    accepts = hub.evbus.init.sources()
    found = _sources.matching(contexts, profile, accepts, hub.evbus.init.finder(contexts))
    return [
        _sources.EventSource(
            name=one.full_name,
            consume=functools.partial(_open, one),
            attach=one.bound("attach"),
            announces="READY" in one.plugin.flags,
            patterns="PATTERNS" in one.plugin.flags,
            check=functools.partial(_check_subscription, one),
            expect=_expect(hub, one),
            fixed=_sources.fixed(one),
        )
        for one in found
    ]


def _check_subscription(found, subscription):
    check = found.bound("check")
    if check is None:
        return
    try:
        check(subscription)
    except errors.ProfileError as exc:
        where = f"{found.provider} profile {found.name!r}"
        raise errors.ProfileError(f"{where}: {exc.reason}", path=exc.path) from None


def _expect(hub, found):
    """Return what lets lanes wait for a consumer of a profile; None where nobody is told when it is there."""
    if found.settings is None or "READY" not in found.plugin.flags:
        return None
    return functools.partial(hub.connection.init.expect, found.plugin.name, found.context())


def _open(found, subscription=None):
    return found.bound("consume")(subscription or types.Subscription())


async def run(hub, contexts, source, profile="default", count=0, on_left=None):
    """Consume from the profile ``source`` and deliver to those that match ``profile``, until cancelled.

    A delivery is acknowledged when every lane has delivered it, or its dead letter is recorded. Cancelled, or
    after ``count`` deliveries (0: no end), it takes nothing more, and waits for what is under way, at most
    for the option ``drain_timeout``; what is not settled then stays with its source. Cancel it before the bus
    is stopped.

    :param contexts: the profiles that the bus was started with.
    :param source: the name of a profile, or ``provider.name`` when several providers have one of that name.
    :param on_left: a plain function that is called with the number of deliveries that stay with their source,
        if there are any; they are logged as well.
    :raises ConfigError: there is no such profile, or it cannot be consumed from; no profile matches
        ``profile``, or ``source`` itself does.
    :raises BusStopped: the bus does not run, or was stopped meanwhile.
    :raises Unavailable: the source ended with an error; :class:`~evbus.errors.ConnectFailed` when it did at
        first, and its profile does not say to wait.
    """
    found = hub.evbus.bridge.check(contexts, source, profile)
    engine = hub.evbus.ENGINE
    engine.relaying()  # that it does is seen before anything is consumed
    lanes = engine.lanes_of(profile)
    if not lanes:
        raise errors.ConfigError(f"the bus was started without a profile that matches {profile!r}")

    def take(delivery):
        event = delivery.envelope.replace(profile=profile, headers=delivery.envelope.headers)
        event.accepted_at = event.accepted_at or time.monotonic()
        try:
            _check_size(hub, event)
            hub.evbus.BROKER.prepare(event)
        except BaseException as exc:
            # Whatever an interceptor raises: left with its source, the event would come again and again.
            engine.relaying().refuse(delivery, event, lanes, _waiting.failure_of(exc, _waiting.running()))
        else:
            engine.relaying().relay(delivery, event, lanes)

    wanted = types.Subscription(concurrency=BATCH)
    most = _bridge.MOST
    if hasattr(found.settings, "prefetch"):
        most = wanted.prefetch_for(found.settings.prefetch)
    bridge = _bridge.Bridge(_open(found, wanted), take, engine.relayed, most=most)
    try:
        await bridge.run(count, hub.evbus.init.settings().drain_timeout)
    except errors.EvbusError:
        raise
    except Exception as exc:
        log.debug("consuming from %s.%s failed", found.provider, found.name, exc_info=exc)
        reason = _redact.problem_text(exc, _redact.secrets_of(found.data))
        reason += _failure.about(exc, reason)
        raise errors.Unavailable(
            f"{found.provider} profile {found.name!r}: the source ended: {reason}"
        ) from exc
    finally:
        if bridge.unsettled:
            log.warning(
                "%s profile %r: %d deliveries were not settled in time, and stay with their source",
                found.provider,
                found.name,
                bridge.unsettled,
            )
            if on_left is not None:
                on_left(bridge.unsettled)
