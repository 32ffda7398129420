"""How bodies become bytes and are read back; one plugin for each encoding."""
