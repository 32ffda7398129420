"""Services: interfaces, the components that bundle them, and the calls of their methods."""
