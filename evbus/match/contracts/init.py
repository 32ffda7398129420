"""A match plugin decides which configured profiles an event goes to."""


def sig_find(hub, name, pattern):
    """Return whether ``name`` matches ``pattern``.

    :param name: the name of the profile that the event was put with.
    :param pattern: the name of a configured profile, read as a pattern.

    The answer depends on the two alone: it is asked for once per pair and then remembered. A pattern
    that cannot be read raises (``re.error``), which refuses the profile when the bus starts.
    """
