"""A match plugin decides which configured profiles an event goes to. Its functions are plain ones.

``def find(hub, name, pattern)``
    Returns whether ``name``, the profile that an event was put with, matches ``pattern``, the name of a
    configured profile. The answer depends on the two alone: it is asked for once per pair and then
    remembered. A pattern that cannot be read raises (``re.error``), which refuses the profile when the bus
    starts.

``def ends(hub, pattern)``, optional
    Returns two texts: what every name that matches ``pattern`` begins with, and what it ends with behind
    that; ``("orders.", "")`` for ``orders.*``. So among thousands of profiles ``find`` is asked about few.
    Without it, and for ``("", "")``, it is asked about all.
"""
