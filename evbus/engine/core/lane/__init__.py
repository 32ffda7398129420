"""Lanes: the buffer, the workers and the retries of one destination, and what leads there."""
