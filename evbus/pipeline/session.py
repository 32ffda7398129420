from evbus import errors
from evbus import session as _session

__optional__ = True


def send(hub, envelope):
    """Write the session of this context (``evbus.api.session``) into the header ``evbus-session``.

    Without a session there is no header, unless the caller has set one.
    """
    text = _session.text()
    if text:
        envelope.headers[_session.HEADER] = text


async def handle(hub, envelope, call_next):
    """Run the handler in the session that the header holds; without a header, in none.

    :raises Rejected: the header holds no session.
    """
    try:
        found = _session.read(envelope.headers.get(_session.HEADER))
    except errors.InvalidHeader as exc:
        raise errors.Rejected(str(exc)) from None
    with _session.inside(found):
        return await call_next(envelope)
