"""hub.egress: out of message systems."""
