"""The HTTP server, by which services, and later metrics and pages, are reached. The extra ``service``."""
