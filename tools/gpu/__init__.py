"""The checks of ``tools/gpu_check.py``: what must hold of training on a GPU, one after the other."""
