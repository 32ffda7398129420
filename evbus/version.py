"""The version of evbus; pop-config reads it for ``evbus --version``."""

version = "0.1.0"
