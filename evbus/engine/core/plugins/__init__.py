"""Plugins: where they are found, how they are loaded, what they have to look like."""
