"""Handles by which a program uses a bus, with an event loop and without."""
