"""What holds for all tests."""

from hypothesis import settings

# No test is judged by its time, for the machine may be busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
