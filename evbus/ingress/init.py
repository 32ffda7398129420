"""The ingress subsystem: one file for each way into a message system."""
