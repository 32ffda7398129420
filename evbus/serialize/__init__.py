"""The room of serializers, which make bytes of bodies and read them back; one for each encoding."""
