"""Training of the models of a zoo."""
