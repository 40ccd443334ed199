"""Error rates and reports."""
