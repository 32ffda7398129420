"""A pipeline plugin is one file with either or both of two functions.

``def send(hub, envelope)``
    Runs before an event is queued, in the context of whoever puts it; a plain function. It may write to
    ``envelope.headers`` (a dictionary of this event alone), replace ``envelope.body``, or raise
    ``evbus.errors.Rejected``, and then the event is not queued. What it returns is not looked at.

``async def handle(hub, envelope, call_next)``
    Runs around each handler of the dispatcher: ``return await call_next(envelope)`` goes on to the next
    plugin, and at last to the handler. What is raised below passes through here.

The plugins run in the order of the option ``pipeline``, else by ``__order__`` (a number, default 0) and
then by name; ``handle`` of the first is the outermost. A plugin with ``__optional__ = True`` takes part only
when the option names it.

There are no ``sig_`` functions here because POP would then demand both functions of every plugin.
"""
