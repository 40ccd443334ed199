"""The kept encoder at work: embeddings, transcripts, alignments."""
