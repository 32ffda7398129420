"""The interface of a subcommand."""
