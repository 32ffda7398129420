"""Requests to other processes, and those that come from them."""
