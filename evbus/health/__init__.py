"""Health checks that other folders of this name hold: what the hub shows as hub.health."""
