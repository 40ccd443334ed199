"""Where embeddings go: one module a format, all behind :mod:`audio_ssl.inference.sinks.base`."""
