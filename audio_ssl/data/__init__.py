"""Audio on disk to batches in memory: manifest, scan, decode, plan, loader. Knows no model."""
