"""The message systems, a folder each."""
