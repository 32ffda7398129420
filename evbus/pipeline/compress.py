__optional__ = True


def __init__(hub):
    """Declare ``hub.pipeline.COMPRESSOR``, made of the options when they are read."""
    hub.pipeline.COMPRESSOR = None


def configure(hub, settings):
    """Take the options ``compress_with``, ``compress_over`` (bytes) and ``max_body`` (bytes).

    :raises MissingExtra: zstd is wanted and not installed.
    """
    # Not before: zstd is imported there.
    from evbus.engine.stages import compress as _compress

    hub.pipeline.COMPRESSOR = _compress.Compressor(
        settings.compress_with, settings.compress_over, settings.max_body
    )


def send(hub, envelope):
    """Compress a body of more than ``compress_over`` bytes, and say how in the header ``content-encoding``.

    What has such a header stays, and so does what would not get smaller.

    :raises PayloadTooLarge: the body has more than ``max_body`` bytes.
    """
    hub.pipeline.COMPRESSOR.send(envelope)


async def handle(hub, envelope, call_next):
    """Hand on what was compressed as it was, without the header.

    :raises Rejected: it is compressed in an unknown way, damaged, or larger than ``max_body`` bytes.
    """
    # The envelope of a message in process has no body: what its headers say is about another one.
    if envelope.profile:
        envelope = hub.pipeline.COMPRESSOR.received(envelope)
    return await call_next(envelope)
