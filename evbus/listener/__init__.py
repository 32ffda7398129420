"""Listeners of events that other folders of this name hold: what the hub shows as hub.listener."""
