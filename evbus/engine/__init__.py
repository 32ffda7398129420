"""The engines: plain typed packages that know no hub, one idea each. Rooms stand upon them."""
