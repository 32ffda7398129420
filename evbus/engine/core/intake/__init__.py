"""Deliveries from outside: where they come from, and how they are kept until they are settled."""
