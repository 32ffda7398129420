"""What an application consists of, as a catalogue, an AsyncAPI document or a graph."""
