"""Queues within the process."""
