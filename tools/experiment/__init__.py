"""The parts of ``tools/quality.py``: how long a system must train until it is good, and what good is."""
