"""Calls somebody's function with a message: signature, injection, limits."""
