"""Events that were given up."""
