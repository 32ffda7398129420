from evbus.engine.stages import receiver as _receiver

__optional__ = True


def __init__(hub):
    """Declare ``hub.pipeline.SIGNER``, made of the options when they are read."""
    hub.pipeline.SIGNER = None


def configure(hub, settings):
    """Take the options ``sign_keys``, ``sign_tolerance`` (seconds) and ``sign_limit`` (signatures).

    :raises SettingsError: there is no key, or one that is not usable.
    """
    from evbus.engine.stages import keys as _keys
    from evbus.engine.stages import sign as _sign

    keys = _keys.read_keys(settings.sign_keys)
    hub.pipeline.SIGNER = _sign.Signer(keys, settings.sign_tolerance, settings.sign_limit)


def send(hub, envelope):
    """Sign the event with the first of the option ``sign_keys``: HMAC-SHA256, in ``evbus-signature``.

    Signed are body, routing key, content type, the headers ``content-encoding``, ``ce-...`` and
    ``evbus-...``, and the time, which ``evbus-signed-at`` holds: name ``sign`` behind all that set these.
    """
    hub.pipeline.SIGNER.send(envelope)


async def handle(hub, envelope, call_next):
    """Handle what was signed with one of the keys, within ``sign_tolerance`` seconds, once.

    :raises Rejected: it is not signed, altered, too old, from the future, or a replay.
    """
    return await hub.pipeline.SIGNER.handle(envelope, _receiver.RECEIVER.get(), call_next)
