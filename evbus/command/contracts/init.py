"""The interface of a subcommand: one function that returns the exit code."""


async def sig_main(hub, options):
    """Run the subcommand with the options of the section ``evbus`` and return the exit code."""
