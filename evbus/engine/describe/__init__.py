"""Describes an application, as a catalogue, an AsyncAPI document or a graph."""
