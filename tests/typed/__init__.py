"""Code of users for mypy alone: what is right, and with an ignore what has to be an error."""
