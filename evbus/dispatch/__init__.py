"""Events, commands and queries in process: what the hub shows as hub.dispatch."""
