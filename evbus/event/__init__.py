"""Typed events and their listeners: what the hub shows as hub.event."""
