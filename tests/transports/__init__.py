"""What every transport does, each at its real broker; ``table.py`` says which there are and what they can."""
