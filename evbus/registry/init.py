from dict_tools.data import SafeNamespaceDict

from evbus import errors
from evbus.engine.core import profiles as _profiles
from evbus.engine.core.plugins import face as _face


async def open(hub, settings, health_path, status):  # noqa: A001 - the name of the step in all rooms
    """Open the registry that the option ``services`` names; return it.

    :param health_path: returns the path at which a component tells its health.
    :param status: awaits how this process is.

    :raises ConfigError: there is no such registry, or its settings have to be mended.
    """
    from evbus.engine.service import ground as _ground

    name, data = settings.registry_parts()
    plugin = _plugin(hub, name)
    functions = {key: _face.direct(each) for key, each in plugin._funcs.items()}
    schema, path = getattr(plugin, "PROFILE", None), f"registry.{name}"
    data = {} if data is None else data
    profile = None if schema is None else _profiles.convert(data, schema, "services", path)
    ctx = SafeNamespaceDict(
        acct=data, profile=profile, name=name, state=None, health_path=health_path, status=status
    )
    if "open" in functions:
        ctx.state = await functions["open"](ctx)

    def bound(key):
        return None if key not in functions else lambda *given: functions[key](ctx, *given)

    return _ground.Registry(
        name, bound("watch"), bound("register"), bound("deregister"), bound("components"), bound("close")
    )


def _plugin(hub, name):
    known = {module.__name__: module for module in hub.registry if module.__name__ != "init"}
    if name in known:
        return known[name]
    broken = [plugin for plugin in hub.evbus.init.plugins()["registry"] if plugin.name == name]
    why = str(broken[0].error()) if broken else f"there is no registry {name!r}{errors.absent(name, known)}"
    raise errors.ProfileError(why, source="services", path="registry")
