"""Few-shot inference: embedders, batch-norm modes, heads and the domain recogniser."""
