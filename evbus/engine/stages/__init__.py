"""What the pipeline plugins do: signatures, compression, stamps, traces."""
