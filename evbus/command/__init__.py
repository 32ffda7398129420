"""hub.command: the subcommands of the command ``evbus``."""
