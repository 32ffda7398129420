"""What a program does with a bus, with an event loop and without."""
