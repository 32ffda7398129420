"""Implementations of components and services that other folders of this name hold: hub.component."""
