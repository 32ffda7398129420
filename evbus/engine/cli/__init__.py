"""The parts that the subcommands of ``evbus`` share: input, output, tables."""
