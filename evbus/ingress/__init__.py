"""hub.ingress: the ways into message systems."""
