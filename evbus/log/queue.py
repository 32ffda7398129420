"""Put log records on the bus, and print them: ``--log-plugin=queue``.

Options in ``log_handler_options``: ``profile=logger`` and ``routing_key=log``, in which ``{level}``,
``{logger}`` and ``{module}`` are the record's. The body of an event is ``{"message", "module", "level",
"timestamp", "logger", "time"}``, with ``"exception"`` and ``"extra"`` where there are any.
"""

import logging

from evbus.engine.core import log_handler as _log_handler


def setup(hub, conf):
    """Set up logging by the options of pop-config (``log_level``, ``log_fmt_console``, ...)."""
    root = logging.getLogger()
    raw_level = str(conf["log_level"]).strip().lower()
    hub.log.INT_LEVEL = int(raw_level) if raw_level.isdigit() else hub.log.LEVEL.get(raw_level, root.level)
    root.setLevel(hub.log.INT_LEVEL)

    console = logging.StreamHandler()
    console.setLevel(hub.log.INT_LEVEL)
    console.setFormatter(logging.Formatter(fmt=conf["log_fmt_console"], datefmt=conf["log_datefmt"]))
    root.addHandler(console)

    _, options = hub.render.cli.args(conf["log_handler_options"])
    _log_handler.check_options(options)
    handler = hub.log.queue.handler(datefmt=conf["log_datefmt"], **options)
    handler.setLevel(hub.log.INT_LEVEL)
    root.addHandler(handler)
    for added in (console, handler):
        hub.log.handlers.addHandler(added)


def handler(hub, datefmt=None, profile="logger", routing_key="log"):
    """Return a logging handler that puts records on the bus; works before the bus is started."""
    putter = hub.log.queue.wrapper(profile=profile, routing_key=routing_key)
    return _log_handler.BusHandler(putter, logging.Formatter(datefmt=datefmt))


def wrapper(hub, profile="logger", routing_key="log"):
    """Return a queue for ``logging.handlers.QueueHandler``, as pop-evbus has it."""
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")

    def put_nowait(**event):
        # Looked up each time: plugins that are loaded later may give it contracts.
        hub.evbus.broker.put_nowait(**event)

    return _log_handler.Putter(put_nowait, profile=profile, routing_key=routing_key)
