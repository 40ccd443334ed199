"""Parts of ``tools/bench.py``: what is timed, how, and what is told about it. The package never imports these."""
