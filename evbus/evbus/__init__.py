"""hub.evbus: the bus itself."""
