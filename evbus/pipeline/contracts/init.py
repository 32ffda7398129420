"""A pipeline plugin is one file with either or both of the first two of these functions.

``def send(hub, envelope)``
    Runs before an event is queued, in the context of whoever puts it; a plain function. It may write to
    ``envelope.headers`` (a dictionary of this event alone), replace ``envelope.body``, or raise
    ``evbus.errors.Rejected``, and then the event is not queued. What it returns is not looked at.

``async def handle(hub, envelope, call_next)``
    Runs around the handler or listener on the receiving side, and around the reading of a reply:
    ``return await call_next(envelope)`` goes on to the next plugin, and at last to the handler. What is
    raised below passes through here. A received envelope has the body as it came, and headers that may be
    shared: hand on a copy to change them (``envelope.replace(headers=...)``). That of a message in process
    has the profile ``""`` and no body.

Both may take one argument more at the end, a descriptor (``evbus.api.EventDescriptor``,
``evbus.api.EventListenerDescriptor``): ``send(hub, envelope, descriptor)`` that of the event, None for what
was not sent as an event; ``handle(hub, envelope, call_next, descriptor)`` that of the listener, with its
event, None around handlers of commands and queries, and around replies.

``def configure(hub, settings)``
    Optional. Runs once the options are read, before the first event, if the plugin takes part: ``settings``
    is the typed object of all options of the section ``evbus``, with those that plugin files declare in
    ``OPTIONS = {name: default}``. It may raise a ``ConfigError``.

The plugins run in the order of the option ``pipeline``, else by ``__order__`` (a number, default 0) and
then by name; ``handle`` in the reverse order: the last is the outermost, so that what was done last to an
event is undone first. A plugin with ``__optional__ = True`` takes part only when the option names it.

There are no ``sig_`` functions here because POP would then demand both functions of every plugin.
"""
