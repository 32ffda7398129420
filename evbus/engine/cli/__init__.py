"""What the subcommands of the command ``evbus`` share: input, output, tables."""
