"""Other tools' manifests: readers and writers beside our own table."""
