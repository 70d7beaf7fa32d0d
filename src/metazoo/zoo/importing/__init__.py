"""Import of models that were trained elsewhere."""
