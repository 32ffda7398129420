"""The interface of hub.channel."""
