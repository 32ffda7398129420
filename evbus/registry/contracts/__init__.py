"""The interface of hub.registry."""
