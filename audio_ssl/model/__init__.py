"""The encoder that is kept after pre-training: conv feature encoder, positions, transformer, CTC head."""
