"""A model of ours as an upstream of s3prl, so that SUPERB can be run on it (README.md)."""
