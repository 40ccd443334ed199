"""Augmentation on the fly: ``effects`` are pure functions of waveforms, ``augmenter`` draws them and reads helpers."""
