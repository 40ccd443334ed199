"""Pretext tasks: what turns frames into a loss during pre-training and is thrown away afterwards."""
