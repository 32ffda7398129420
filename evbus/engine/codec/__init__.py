"""Bodies: from values to bytes and back, exactly, in the types that a program declares."""
