"""How somebody's function is called with a message: signature, injection, limits."""
