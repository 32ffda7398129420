"""What the message systems share: addresses, TLS, connections that heal."""
