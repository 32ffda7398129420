"""Where the plugins that consume live; see ``contracts/init.py``."""
