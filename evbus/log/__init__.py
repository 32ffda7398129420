"""hub.log: log records as events."""
