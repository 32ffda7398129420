"""The room of matchers: they match an event's profile against the patterns of configured profiles."""
