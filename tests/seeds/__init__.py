"""The examples in the texts of the systems that evbus comes from, as they stand there but for the imports.

A comment says where evbus differs on purpose. The examples of aspyx-service (services, components,
registries, channels, REST, health checks) are not here yet, as evbus has no services.
"""
