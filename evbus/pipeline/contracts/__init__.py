"""The interface that every plugin of this room keeps."""
