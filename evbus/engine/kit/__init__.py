"""Small tools that know nothing of events."""
