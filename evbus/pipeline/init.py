def __init__(hub):
    """Make the room known; the plugins are put in order and composed when the bus starts."""
