"""The work of the pipeline plugins: signatures, compression, stamps, traces."""
