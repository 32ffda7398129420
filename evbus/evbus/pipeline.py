"""Compose the pipeline plugins into what is called for every event."""

import functools
import logging

from evbus import errors
from evbus.engine.core import endpoint as _endpoint
from evbus.engine.core import pipeline as _pipeline
from evbus.engine.core.plugins import dirs as _dirs
from evbus.engine.core.plugins import face as _face

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
        _face.direct(configure)(settings)
    unused = sorted(name for name, entry in found.items() if not entry.optional and name not in names)
    if unused:
        log.info("pipeline plugins that the option pipeline leaves out: %s", ", ".join(unused))
    for option, plugin in _pipeline.OPTIONS.items():
        if plugin not in names and getattr(settings, option) not in (None, "", "binary"):
            log.warning(
                "the option %s does nothing, as the option pipeline does not name the plugin %s",
                option,
                plugin,
            )
    hub.evbus.AROUND = _pipeline.around(_steps(hub, names, "handle", 3))
    return _pipeline.before(_steps(hub, names, "send", 2), hub.event.REGISTRY.described)


def refused(hub, settings):
    """Return a function that makes the error of a plugin without which no event may pass, or None.

    That is one that the option ``pipeline`` names, and is not loaded; without the option, any in a folder of
    ``plugin_dirs``: it may be there to take out what nobody else is to see.
    """
    loaded = hub.evbus.pipeline.known()
    for plugin in hub.evbus.PLUGINS["pipeline"]:
        if plugin.state == "loaded" or plugin.name.startswith("contracts."):
            continue
        if settings.pipeline is None:
            asked = _dirs.inside(settings.plugin_dirs, plugin.file)
            rest = "or name those that are to take part in the option pipeline"
        else:
            asked = plugin.name in settings.pipeline and plugin.name not in loaded
            rest = "or leave it out of the option pipeline"
        if asked:
            reason = f"{plugin.reason}; no event passes without this plugin: mend it, {rest}"
            place = {"plugin": plugin.ref, "file": plugin.file, "line": plugin.line}
            return functools.partial(errors.PluginError, reason, **place)
    return None


def known(hub):
    """Return every pipeline plugin that is loaded, active or not, by name."""
    found = {}
    for module in hub.pipeline:
        if module.__name__ != "init":
            order, optional = getattr(module, "__order__", 0), getattr(module, "__optional__", False)
            found[module.__name__] = _endpoint.Plugin(module.__name__, order=order, optional=optional)
    return found


def _functions(hub, names, name):
    return [hub.pipeline[each][name] for each in names if name in hub.pipeline[each]._funcs]


def _steps(hub, names, name, given):
    """Return a function of each plugin, marked if it takes a descriptor beside the ``given`` arguments."""
    return [
        _pipeline.DescribedStep(_face.direct(each))
        if _pipeline.takes_descriptor(each.func, given)
        else _face.direct(each)
        for each in _functions(hub, names, name)
    ]
