"""Units: k-means over the frames of an embedding folder, and a label for every frame of speech.

``stored`` opens the folder, ``draws`` says which frames are read, ``kmeans`` fits, ``fit`` writes; ``codebook`` is what
was written, ``nearest`` finds labels, ``assign`` does so for whole inputs: into ``label_files``, with ``statistics``.
"""
