def __init__(hub):
    """Declare ``hub.match.PLUGIN``, the matcher in use; default ``"glob"``.

    A value that an application has set is kept: POP runs this again when it rebuilds the room.
    """
    # Not hasattr: an unknown attribute makes POP load every plugin in search of it.
    if "PLUGIN" not in vars(hub.match):
        hub.match.PLUGIN = "glob"


def find(hub, name: str, pattern: str) -> bool:
    """Return whether ``name`` matches ``pattern`` by the plugin that ``hub.match.PLUGIN`` names."""
    return hub.match[hub.match.PLUGIN].find(name, pattern)
