"""Read profiles: from plain YAML, from a file encrypted by acct, or from data."""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Mapping

from dict_tools.data import NamespaceDict, SafeNamespaceDict

from evbus import errors
from evbus.engine.core import expand as _expand
from evbus.engine.core import profiles as _profiles
from evbus.engine.core.plugins import installed as _installed
from evbus.engine.kit import paths as _paths

log = logging.getLogger("evbus.acct")

#: Where profiles stand that a configuration file holds.
WITHIN = "evbus.profiles"


async def profiles(hub, acct_file=None, acct_key=None, acct_data=None, **kwargs):
    """Return the profiles that ingress plugins accept, as contexts for ``hub.evbus.init.start``.

    The file may hold credentials for others as well: providers that no ingress plugin accepts are left
    out, unless they look like a typing error.

    :param acct_file: plain YAML, or with ``acct_key`` a file encrypted by acct; default, without
        ``acct_data``: the options ``profiles`` and ``acct_key`` of the section ``evbus``.
    :param acct_data: profiles as data; then the file is not read.
    :param kwargs: more options for acct, such as ``crypto_plugin`` and ``render_pipe``.
    :raises ProfileError: the file, the path of the key, and what would be right.
    """
    if acct_file is None and acct_data is None:
        # A hub whose options pop-config has not read has none from the environment.
        options = (hub.OPT or {}).get("evbus") or {}
        acct_file = options.get("profiles") or options.get("acct_file") or os.environ.get("EVBUS_PROFILES")
        acct_key = acct_key or options.get("acct_key") or os.environ.get("ACCT_KEY")
    source = "acct_data"
    if acct_file and acct_data is None:
        acct_data, source = await _written(hub, acct_file, acct_key, kwargs)
        known = {provider for accept in hub.evbus.init.accepts() for provider in accept.providers}
        # What is for others is as they read it.
        own = {provider: part for provider, part in acct_data.items() if provider in known}
        acct_data = {**acct_data, **_expand.expanded(own, os.environ, source=source)}
    contexts = await _accepted(hub, acct_data or {}, source)
    # Checked as it was written: the path of a key in an error is that in the file.
    hub.evbus.init.check({name: part for name, part in (acct_data or {}).items() if name in contexts}, source)
    return contexts


async def load(hub, path, key=None):
    """Return the profiles of evbus's own file; every provider in it has to be accepted by a plugin.

    Values take the place of ``${NAME}``, ``${NAME:-default}`` and ``${file:path}``, and of ``file:path``
    under the name of a secret.

    :param path: the file, or what a configuration file holds in its place.
    :raises ProfileError: the file, the path of the key, and what would be right.
    """
    data, source = await _written(hub, path, key, {})
    data = _expand.expanded(data, os.environ, source=source)
    hub.evbus.init.check(data, source)
    return data


async def _written(hub, given, key, options):
    """Return profiles as a person wrote them, in a file or in a configuration file, and where that is."""
    if isinstance(given, Mapping):
        return _plain_data(given), WITHIN
    if not isinstance(given, (str, os.PathLike)):
        kind = type(given).__name__
        raise errors.ProfileError(f"profiles are a mapping, or the path of a YAML file of them, not {kind}")
    return await _read(hub, given, key, options), str(given)


def _plain_data(data):
    """Return plain dictionaries and lists; what POP has read is immutable."""
    if isinstance(data, Mapping):
        return {key: _plain_data(value) for key, value in data.items()}
    return [_plain_data(value) for value in data] if isinstance(data, (list, tuple)) else data


async def _read(hub, acct_file, acct_key, options):
    path = _paths.expanded(acct_file, "profiles")
    if not acct_key and options.get("render_pipe", "yaml") == "yaml":
        return _profiles.load_yaml(path)
    if importlib.util.find_spec("acct") is None:
        raise errors.MissingExtra("an encrypted profiles file", package="acct", extra="acct")
    if not path.is_file():
        raise errors.ProfileError("the file cannot be read: there is no such file", source=str(path))
    _open_acct(hub)
    known = hub.acct.init.profiles.signature.parameters
    for name in options:
        if name not in known:
            hint = errors.nearest(name, set(known) - {"hub"})
            raise errors.SettingsError(f"acct has no option {name!r}{hint}")
    # acct ends the name of a file with that of the plugin that it was encrypted by.
    ending = path.suffix[1:]
    plugin = options.get("crypto_plugin") or (ending if ending in _crypto(hub) else "fernet")
    try:
        data = await hub.acct.init.profiles(str(path), acct_key, **{**options, "crypto_plugin": plugin})
    except Exception as exc:
        with contextlib.suppress(errors.ProfileError):
            # Nobody encrypted it: ACCT_KEY may be set for other files.
            return _profiles.load_yaml(path)
        # Chained, the traceback would show the key among acct's arguments.
        kind = type(exc).__name__
        raise errors.ProfileError(
            f"the file cannot be decrypted with this acct_key ({kind}) by {plugin}; the name of a file by "
            f"another crypto plugin ends with that of the plugin ({', '.join(_crypto(hub))})",
            source=str(path),
        ) from None
    if not isinstance(data, dict):
        raise errors.ProfileError("the file holds no mapping of providers to profiles", source=str(path))
    return data


def _crypto(hub):
    """Return the names of acct's crypto plugins."""
    return [module.__name__ for module in hub.crypto if module.__name__ != "init"]


async def _accepted(hub, data, source):
    """Leave out what is nobody's, and let acct plugins complete what is left."""
    known = {provider for accept in hub.evbus.init.accepts() for provider in accept.providers}
    contexts = NamespaceDict()
    if _profiles.MATCH_PLUGIN in data:
        contexts[_profiles.MATCH_PLUGIN] = data[_profiles.MATCH_PLUGIN]
    for provider, name, path, info in _profiles.providers(data, source=source):
        if provider not in known:
            _leave_out(hub, provider, known, source, path)
            continue
        # The values are secrets; they show neither in the repr of the contexts nor in a log of them.
        part = SafeNamespaceDict({name: info})
        contexts.setdefault(provider, []).append(part)
        for made, made_info in (await _processed(hub, provider, part)).items():
            contexts[provider].append(SafeNamespaceDict({made: made_info}))
    return contexts


def _leave_out(hub, provider, known, source, path):
    """Pass over a provider of somebody else's; refuse what was clearly meant for the bus."""
    if provider.partition(".")[0] in known:
        return
    broken, disabled = hub.evbus.init.missing()
    if provider in disabled:
        log.warning("%s: %s: its profiles are left out: %s", source, path, disabled[provider])
    elif provider in broken or "did you mean" in errors.nearest(provider, known, cutoff=0.8):
        reason = _profiles.refusal(provider, known, broken)
        raise errors.ProfileError(reason, source=source, path=path)
    else:
        log.debug("%s: the provider %r is no ingress plugin's", source, provider)


def _open_acct(hub):
    with _installed.LOADING:
        hub.pop.sub.add(dyne_name="acct")


async def _processed(hub, provider, part):
    """Run a profile through the acct plugins of its provider, if acct and such plugins are there."""
    if importlib.util.find_spec("acct") is None:
        return {}
    _open_acct(hub)
    if provider not in hub.acct:
        return {}
    return (await hub.acct.init.process([provider], {provider: part})).get(provider) or {}
