"""Interceptors: plugins that see every event before it is queued, and around its handler when it arrives."""
