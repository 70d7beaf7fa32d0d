"""The inference side: embedders, batch-norm modes, heads and the domain router."""
