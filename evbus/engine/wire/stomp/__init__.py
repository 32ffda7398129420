"""STOMP 1.2."""
