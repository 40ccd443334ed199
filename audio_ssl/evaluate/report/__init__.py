"""Pictures of runs and of what a model hears."""
