"""From any text to batches: corpora, token files, and the order in which they are read."""
