"""hub.connection: the live connections to message systems."""
