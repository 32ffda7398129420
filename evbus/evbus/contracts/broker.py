"""The interface of ``hub.evbus.broker``, which every application calls.

The signatures are checked when the hub loads the broker. A package that puts a file of this name into
the ``contracts`` folder of its own ``evbus`` folder can watch or replace each of them: ``pre_put``,
``call_put``, ``post_put``, and likewise for the others. A put that a contract watches takes POP's way.
"""


async def sig_put(hub, routing_key=None, body=None, profile="default", headers=None):
    """Put an event on the bus; wait while the bus is full."""


def sig_put_nowait(hub, routing_key=None, body=None, profile="default", headers=None):
    """Put an event on the bus without ever waiting, from any thread."""


async def sig_get(hub):
    """Take one event off the bus, waiting for it."""


async def sig_init(hub):
    """Make the queue belong to the running loop, and return it."""


async def sig_propagate(hub, contexts, event):
    """Publish one event, now, to every profile in ``contexts`` that matches."""
