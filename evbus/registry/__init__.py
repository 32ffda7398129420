"""Registries: where components are. What the hub shows as hub.registry."""
