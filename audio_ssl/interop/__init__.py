"""Other systems' checkpoints: key maps both ways, checked by parity."""
