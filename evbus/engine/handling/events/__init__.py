"""Typed events on their way to listeners."""
