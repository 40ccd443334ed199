"""What is looked at before a recogniser is trained, on manifests and transcripts alone; knows no model."""
