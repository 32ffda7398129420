"""evbus: a plug-in event bus for Python."""
