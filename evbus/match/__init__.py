"""How the name of an event's profile is matched against the patterns of the configured profiles."""
