"""The bus: from a put to the plugin that publishes, counted all the way."""
