"""Services: typed interfaces that are called here or elsewhere. What the hub shows as hub.service."""
