"""The interface of hub.evbus."""
