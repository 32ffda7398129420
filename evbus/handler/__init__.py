"""Handlers of messages that other folders of this name hold: what the hub shows as hub.handler."""
