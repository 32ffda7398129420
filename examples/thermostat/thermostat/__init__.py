"""A thermostat: an example of evbus in a POP project."""
