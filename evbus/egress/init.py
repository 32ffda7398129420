"""The room of the plugins that consume; see ``contracts/init.py``."""
