"""The parts that message systems share: addresses, TLS, connections that heal."""
