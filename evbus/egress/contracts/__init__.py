"""The interface of an ingress plugin."""
