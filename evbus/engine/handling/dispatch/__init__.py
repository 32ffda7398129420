"""Events, commands and queries on their way to handlers in this process."""
