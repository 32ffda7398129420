"""Channels: how calls of services reach other processes. What the hub shows as hub.channel."""
