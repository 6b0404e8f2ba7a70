"""Training objectives: pure functions of embeddings, one file each."""
