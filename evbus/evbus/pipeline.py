"""Compose the pipeline plugins into what is called for every event."""

import logging

from evbus.evbus import _face, _pipeline

log = logging.getLogger("evbus")


def compose(hub, settings):
    """Choose the active plugins and let them read their options.

    Their ``handle``, in one function, is kept for :func:`hub.evbus.init.interceptors`.

    :param settings: the options of the section ``evbus``.
    :returns: one function that runs every ``send``, or None when there is none.
    :raises SettingsError: the option ``pipeline`` names a plugin that there is none of, or one twice.
    """
    found = hub.evbus.pipeline.known()
    names = _pipeline.arrange(found, settings.pipeline)
    for configure in _functions(hub, names, "configure"):
        configure(settings)
    unused = sorted(name for name, entry in found.items() if not entry.optional and name not in names)
    if unused:
        log.info("pipeline plugins that the option pipeline leaves out: %s", ", ".join(unused))
    hub.evbus.AROUND = _pipeline.around(_functions(hub, names, "handle"))
    return _pipeline.before(_functions(hub, names, "send"))


def known(hub):
    """Return every pipeline plugin that is loaded, active or not, by name."""
    found = {}
    for module in hub.pipeline:
        if module.__name__ != "init":
            order, optional = getattr(module, "__order__", 0), getattr(module, "__optional__", False)
            found[module.__name__] = _pipeline.Interceptor(module.__name__, order, optional)
    return found


def _functions(hub, names, function):
    plugins = [hub.pipeline[name] for name in names]
    return [_face.direct(plugin[function]) for plugin in plugins if function in plugin._funcs]
