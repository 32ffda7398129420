"""The life of a bus: start, drain, stop, and the signals that ask for it."""
