"""A match plugin decides which configured profiles an event goes to. It has one function, a plain one.

``def find(hub, name, pattern)``
    Returns whether ``name``, the profile that an event was put with, matches ``pattern``, the name of a
    configured profile. The answer depends on the two alone: it is asked for once per pair and then
    remembered. A pattern that cannot be read raises (``re.error``), which refuses the profile when the bus
    starts.
"""
