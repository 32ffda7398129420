"""The interface of a channel: how calls of services reach another process.

A channel is one file. Its name is the file's, with ``-`` for ``_``: ``channel/dispatch_json.py`` is
``dispatch-json``. The least that it has is one function::

    async def invoke(hub, ctx, call, address): ...

It sends the call, an :class:`evbus.engine.service.call.Call`, to the address, as a registry has it, and
returns the result: ``call.spec.read_result(plain)`` makes that of plain values. ``call.name`` is
``component:service:method``, ``call.args`` and ``call.kwargs`` are the arguments, of their types,
``call.headers`` travels with them, and ``call.seconds`` are left: the deadline itself is kept by who calls
this, which is cancelled then.

It raises :class:`evbus.errors.ServiceCommunicationError` when there is no answer, with ``handed_over=False``
where the other end cannot have begun: the call may be made again then, at another address. What the method
has raised, it makes with :func:`evbus.engine.service.failures.raised`.

The same file may also have:

``async def stream(hub, ctx, call, address)``
    Yields the items of a method that returns a stream; closed, it ends the method at the other end. Without
    it, the channel has no streams.
``async def open(hub, ctx)``
    Called once, before the first call; what it returns is ``ctx.state`` from then on.
``async def close(hub, ctx)``
    Called once at the end, if it was opened.
``async def serve(hub, ctx, served)``
    Takes calls of this process' components by itself, without the HTTP server, from the start on; where the
    channel has settings and the process components. ``served.components`` are their names, ``served.hosted``
    calls their methods (:class:`evbus.engine.service.hosted.Hosted`), and ``served.guard`` says who calls,
    None where nobody is asked. What it returns has ``async stop(seconds)``, which returns how many calls it
    had to cancel, and may have ``hurry()``, which lets that wait no longer.
``def address(hub, ctx, component)``
    Returns where a component is called, if the channel knows that by itself, as over a broker. It needs no
    registry then; it is asked where the channel has settings.
``def check(hub, ctx)``
    Raises :class:`evbus.errors.ConfigError` at the start for what the channel lacks.

``ctx.name`` is the channel's name. A channel says in ``__init__(hub)`` what its settings are,
``hub.channel.<file>.PROFILE`` (a ``msgspec.Struct``): ``ctx.profile`` holds them, read, of the option
``services`` below ``channels``. ``hub.channel.<file>.HTTP = True`` says that the HTTP server of evbus is its
other end, and so where the components of a process can be called over it; its settings are those of HTTP
then, unless it has others. ``BROKER = True`` says that a broker is between the two ends, and its settings are
:class:`evbus.engine.service.settings.MessageSettings`.
"""
